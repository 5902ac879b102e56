"""Jointly normal latents by brute force: a log-density that is a quadratic function, taken apart by its derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Law(NamedTuple):
    """The law of latents given the data.

    Attributes:
        log_evidence: log of the integral of the joint density.
        mean: shape `(k,)`.
        covariance: shape `(k, k)`.
    """

    log_evidence: Tensor
    mean: Tensor
    covariance: Tensor


def conditioned(log_joint: Callable[[Tensor], Tensor], size: int) -> Law:
    """Integrate `exp(log_joint(z))` over `size` latents: gradient and Hessian at zero say all of a quadratic.

    With `log_joint(z) = c + g'z - z'Jz / 2`, the mean is `J^-1 g`, the covariance `J^-1`, and the log of the integral
    `c + g' J^-1 g / 2 + size / 2 log 2 pi - log det J / 2`; differentiable in whatever else the function depends on.
    """
    zero = torch.zeros(size, requires_grad=True)
    value = log_joint(zero)
    (gradient,) = torch.autograd.grad(value, zero, create_graph=True)
    rows = [torch.autograd.grad(g, zero, retain_graph=True, create_graph=True)[0] for g in gradient]
    root = torch.linalg.cholesky(-torch.stack(rows))
    mean = torch.cholesky_solve(gradient.unsqueeze(-1), root).squeeze(-1)
    log_det = root.diagonal().log().sum()
    constant = 0.5 * size * torch.log(torch.tensor(2 * torch.pi)) - log_det
    return Law(value + 0.5 * gradient @ mean + constant, mean, torch.cholesky_inverse(root))


def detached(law: Law) -> Law:
    """Return the same numbers, without the graph that led to them."""
    return Law(*(part.detach() for part in law))


def sigma_points(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return `k + 1` points whose mean and covariance (divisor `k + 1`) are these, shape `(k + 1, k)`.

    Vertices of a regular simplex around zero, scaled: of a quadratic function their mean is the expectation.
    """
    k = len(mean)
    ones = torch.ones((k + 1, 1))
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(k + 1)[:, :k]], 1)).Q[:, 1:]  # orthogonal to one
    return mean + (k + 1) ** 0.5 * basis @ torch.linalg.cholesky(covariance).mT
