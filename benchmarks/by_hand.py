"""Without a library: regressions in blocks of rows in torch, or by IRLS in NumPy; a Student mixture by ECME."""

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


def ecme(x: Array, start: dict[str, Array], tol: float) -> float:
    """Fit a mixture of Student distributions: latent scales for location and scale, then `df` by the likelihood itself.

    It ends where the gains promise less than `tol` of the log-likelihood, which is returned.

    References:
        Liu & Rubin (1995), ML estimation of the t distribution using EM and its extensions, ECM and ECME.
    """
    weights, df, loc, scale = (start[name] for name in ("weights", "df", "loc", "scale"))
    path: list[float] = []
    while True:
        square = ((x[:, None] - loc) / scale) ** 2
        constant = _lgamma((df + 1) / 2) - _lgamma(df / 2) - 0.5 * np.log(math.pi * df) - np.log(scale)
        joint = np.log(weights) + constant - (df + 1) / 2 * np.log1p(square / df)
        top = joint.max(1, keepdims=True)
        share = np.exp(joint - top)
        total = share.sum(1, keepdims=True)
        path.append(float((np.log(total) + top).sum()))
        gains = np.diff(path[-3:])
        if len(gains) == 2 and gains[1] ** 2 <= tol * abs(path[-1]) * (gains[0] - gains[1]):
            return path[-1]
        share /= total
        precise = share * (df + 1) / (df + square)
        count = share.sum(0)
        loc = x @ precise / precise.sum(0)
        apart = (x[:, None] - loc) ** 2
        weights, scale = count / len(x), np.sqrt((precise * apart).sum(0) / count)
        df = np.array([_degrees(*of) for of in zip(df, share.T, (apart / scale**2).T, strict=True)])


def _degrees(df: float, share: Array, square: Array) -> float:
    """Newton's method in `log df`, with the slope and the curvature of the likelihood."""
    count = float(share.sum())
    while True:
        more, h = df + 1, 1 / (df + square)
        first, second = float(share @ (square * h)), float(share @ (square * h * h))
        rate = _digamma(more / 2) - _digamma(df / 2) - 1 / df
        slope = 0.5 * (count * rate - float(share @ np.log1p(square / df)) + more / df * first)
        bend = 0.5 * (_trigamma(more / 2) - _trigamma(df / 2)) + 1 / df**2
        bend = 0.5 * (count * bend + first / df - first / df**2 - more / df * second)
        bend = df * slope + df * df * bend
        step = df * slope / -bend if bend < 0 else math.copysign(1.0, slope)
        df *= math.exp(max(-1.0, min(1.0, step)))
        if abs(step) < 1e-4:
            return df


def _lgamma(values: Array) -> Array:
    return torch.lgamma(torch.as_tensor(values)).numpy()


def _digamma(value: float) -> float:
    return float(torch.digamma(torch.tensor(value, dtype=torch.float64)))


def _trigamma(value: float) -> float:
    return float(torch.polygamma(1, torch.tensor(value, dtype=torch.float64)))


def factors_with_holes(problem: Problem) -> Run:
    """Factor analysis of rows with missing entries, all rows at once: a precision for each of them by one product."""
    x, seen, start = problem.rows["x"], problem.rows["seen"], problem.start
    n, k = len(x), start["loadings"].shape[1]
    filled = x * seen

    def run(iterations: int) -> Result:
        loc, W, scale = start["loc"], start["loadings"], start["scale"]
        for left in range(iterations, -1, -1):
            white = W / scale[:, None]
            outer = (white[:, :, None] * white[:, None, :]).reshape(len(W), -1)
            precision = np.eye(k) + (seen @ outer).reshape(n, k, k)
            rest = (filled - loc * seen) / scale
            pull = rest @ white
            covariance = np.linalg.inv(precision)
            mean = (covariance @ pull[:, :, None])[:, :, 0]
            if not left:
                break
            u = np.column_stack([mean, np.ones(n)])
            products = u[:, :, None] * u[:, None, :]
            products[:, :k, :k] += covariance
            gram = (seen.T @ products.reshape(n, -1)).reshape(-1, k + 1, k + 1)
            first = filled.T @ u
            coef = np.linalg.solve(gram, first[:, :, None])[:, :, 0]
            scale = np.sqrt(((filled * filled).sum(0) - (coef * first).sum(1)) / seen.sum(0))
            W, loc = coef[:, :k], coef[:, k]
        log_det = np.linalg.slogdet(precision)[1].sum()
        norm = (seen @ (np.log(scale) + 0.5 * np.log(2 * np.pi))).sum()
        return Result(float(-0.5 * ((rest * rest).sum() - (pull * mean).sum() + log_det) - norm))

    return run
