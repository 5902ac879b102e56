"""Densities in unconstrained coordinates: the density of a value times the volume that its coordinates span there.

With `x = t(u)`, torch's `biject_to` of the support, the density of `u` is `p(x) |dx / du|`. What goes to infinity at a
boundary in `x` has a bound in `u`, and with it a mode in the interior.

References:
    MacKay, D. J. C. (1998). Choice of basis for Laplace approximation. Machine Learning 33, 77-86.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..errors import ModelError
from .named import unwrap


class Unconstrained(TorchDistribution):
    """A distribution whose density is that of the unconstrained coordinates; draws and support are as they were."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base_dist: Any) -> None:
        """Take the distribution."""
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have a gradient."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        """Values that it has."""
        return self.base_dist.support

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values."""
        return self.base_dist.sample(torch.Size(sample_shape))  # type: ignore[no-any-return]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values, with a gradient."""
        return self.base_dist.rsample(torch.Size(sample_shape))  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `log p(x) + log |dx / du|` of constrained values; a mask of the distribution leaves both out."""
        inner = unwrap(self.base_dist)
        volume = log_volume(inner.base.support, value)
        if inner.mask is not None:
            volume = torch.where(inner.mask, volume, 0.0)
        volume = _summed(volume, inner.event_rank)
        # at a boundary, where the density may be infinite, it has none in coordinates, which are infinite there
        return torch.where(volume == -torch.inf, volume, self.base_dist.log_prob(value) + volume)


class UnconstrainedPriors(Messenger):
    """Take the densities of a model's continuous latents in unconstrained coordinates."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if not (msg["is_observed"] or type(fn).__name__ == "_Subsample" or fn.support.is_discrete):
            msg["fn"] = Unconstrained(fn)


def log_volume(support: Any, x: Tensor) -> Tensor:
    """Return `log |dx / du|` at values `x`, one for each event, with `x = t(u)` the transform of their support.

    On a simplex it is `sum_k log x_k`, whether `u` are the sticks of torch, the logarithms of the ratios to one entry
    or (up to a constant) orthonormal contrasts of logarithms. On an interval `u` is a logit, above or below a bound a
    logarithm. Of a positive definite matrix `u` is the Cholesky factor, its diagonal in logarithms.

    Raises:
        ModelError: the support has no coordinates.
    """
    if isinstance(support, constraints.independent):
        return _summed(log_volume(support.base_constraint, x), support.reinterpreted_batch_ndims)
    if support is constraints.simplex:
        return x.log().sum(-1)
    if support is constraints.positive_definite:
        diagonal = torch.linalg.cholesky(x).diagonal(dim1=-2, dim2=-1)
        powers = torch.arange(x.shape[-1] + 1, 1, -1, device=x.device)
        return (powers * diagonal.log()).sum(-1) + x.shape[-1] * torch.log(x.new_tensor(2.0))
    if isinstance(support, type(constraints.real)):
        return torch.zeros_like(x)
    lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if lower is not None or upper is not None:
        above = x.new_zeros(()) if lower is None else (x - lower).log()
        below = x.new_zeros(()) if upper is None else (upper - x).log()
        width = torch.as_tensor(1.0 if lower is None or upper is None else upper - lower)
        return above + below - width.log()
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise ModelError(
            f'prior_density: expected priors with unconstrained coordinates for "unconstrained", got one on '
            f'{support}. Take prior_density="constrained".'
        ) from error
    return transform.log_abs_det_jacobian(transform.inv(x), x)  # type: ignore[no-any-return]


def _summed(tensor: Tensor, rank: int) -> Tensor:
    """Sum the last `rank` dimensions."""
    return tensor.flatten(tensor.dim() - rank).sum(-1) if rank else tensor
