"""What the regressions of the table would take without a library: blocks of rows in torch, and IRLS in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from .ours import Result, Run
from .problem import Array, Problem


def lines(problem: Problem, rows: int = 8192) -> Run:
    """Linear regressions in blocks of rows: `X' diag(w) X` and `X' diag(w) y` of every component."""
    x, y = (torch.as_tensor(problem.rows[name]) for name in ("x", "y"))

    def run(iterations: int) -> Result:
        weights, coef, scale = (torch.as_tensor(problem.start[name]) for name in ("weights", "coef", "scale"))
        K, D = coef.shape
        for step in range(iterations + 1):
            evidence, count = 0.0, torch.zeros(K, dtype=x.dtype)
            gram, pull, square = x.new_zeros((K, D, D)), x.new_zeros((K, D)), x.new_zeros(K)
            for a in range(0, len(y), rows):
                block, value = x[a : a + rows], y[a : a + rows]
                residual = value[:, None] - block @ coef.T
                joint = (weights / scale).log() - 0.5 * (residual / scale).square()
                total = torch.logsumexp(joint, 1, keepdim=True)
                share, evidence = (joint - total).exp(), evidence + float(total.sum())
                count += share.sum(0)
                for k in range(K):
                    weighed = block * share[:, k : k + 1]
                    gram[k].addmm_(weighed.T, block)
                    pull[k].addmv_(weighed.T, residual[:, k])
                    square[k] += (share[:, k] * residual[:, k]).dot(residual[:, k])
            if step == iterations:
                return Result(evidence - 0.5 * len(y) * math.log(2 * math.pi))
            change = torch.linalg.solve(gram, pull)
            weights, coef = count / len(y), coef + change
            scale = ((square - (change * pull).sum(-1)) / count).sqrt()
        raise AssertionError

    return run


def numpy_poisson(problem: Problem) -> Run:
    """Poisson regressions, each by iteratively reweighted least squares."""
    y = problem.rows["y"]
    log_factorial = torch.lgamma(torch.as_tensor(y) + 1).numpy()[:, None]
    return _numpy_irls(problem, lambda eta: y[:, None] * eta - np.exp(eta) - log_factorial, np.exp, lambda mean: mean)


def numpy_logistic(problem: Problem) -> Run:
    """Logistic regressions, each by iteratively reweighted least squares."""
    y = problem.rows["y"]
    return _numpy_irls(
        problem,
        lambda eta: y[:, None] * eta - np.logaddexp(0, eta),
        lambda eta: 1 / (1 + np.exp(-eta)),
        lambda mean: mean * (1 - mean),
    )


def _numpy_irls(
    problem: Problem,
    density: Callable[[Array], Array],
    mean: Callable[[Array], Array],
    variance: Callable[[Array], Array],
) -> Run:
    """Newton's method for every component until a step is so short that the next would be rounding."""
    x, y = problem.rows["x"], problem.rows["y"]

    def run(iterations: int) -> Result:
        weights, coef = problem.start["weights"], problem.start["coef"].copy()
        for step in range(iterations + 1):
            joint = density(x @ coef.T) + np.log(weights)
            top = joint.max(1, keepdims=True)
            share = np.exp(joint - top)
            total = share.sum(1, keepdims=True)
            if step == iterations:
                return Result(float((np.log(total) + top).sum()))
            share /= total
            weights = share.mean(0)
            for k, w in enumerate(share.T):
                change = np.ones(x.shape[1])
                while np.abs(change).max() > 1e-5:
                    mu = mean(x @ coef[k])
                    change = np.linalg.solve(x.T @ (x * (w * variance(mu))[:, None]), x.T @ (w * (y - mu)))
                    coef[k] += change
        raise AssertionError

    return run
