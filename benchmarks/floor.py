"""The floor: a complete EM step written by hand for one model, in torch; and coins in NumPy, as a tutorial has them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .ours import Result, Run
from .problem import Array, Problem

Features = Callable[[Tensor, Tensor, Tensor], None]
"""Write the features of a block `(n, D)` to the last argument `(F, n)`; the other, `(D, n)`, is scratch."""

UNDERFLOW = -700.0
"""Below it `exp` is seven times slower; what it returns there is zero for every purpose."""


def full(problem: Problem, rows: int = 0) -> Run:
    """Full covariances: two matrix products over the features `(1, x, x_i x_j)`, in blocks of `rows`."""
    x = torch.as_tensor(problem.rows["x"])
    D = x.shape[1]
    rows = rows or (4096 if D < 20 else 1024)
    centre = x.mean(0)
    upper = torch.triu_indices(D, D)
    times = torch.where(upper[0] == upper[1], 1.0, 2.0)

    def features(block: Tensor, columns: Tensor, out: Tensor) -> None:
        torch.sub(block.T, centre[:, None], out=columns)
        out[0] = 1.0
        out[1 : 1 + D] = columns
        at = 1 + D
        for i in range(D):
            torch.mul(columns[i:], columns[i], out=out[at : at + D - i])
            at += D - i

    def run(iterations: int) -> Result:
        start = {k: torch.as_tensor(v) for k, v in problem.start.items()}
        weights, loc = start["weights"], start["loc"] - centre
        covariance = start["scale_tril"] @ start["scale_tril"].mT
        for step in range(iterations + 1):
            root = torch.linalg.cholesky(covariance)
            precision = torch.cholesky_inverse(root)
            slope = (precision @ loc[..., None])[..., 0]
            constant = (
                weights.log()
                - 0.5 * (slope * loc).sum(-1)
                - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
                - 0.5 * D * math.log(2 * math.pi)
            )
            quadratic = -0.5 * precision[:, upper[0], upper[1]] * times
            natural = torch.cat([constant[:, None], slope, quadratic], 1)
            evidence, found = sweep(x, natural, features, rows)
            if step == iterations:
                return Result(evidence)
            total, first, second = found[:, 0], found[:, 1 : 1 + D], found[:, 1 + D :]
            weights, loc = total / len(x), first / total[:, None]
            square = torch.empty_like(covariance)
            square[:, upper[0], upper[1]] = square[:, upper[1], upper[0]] = second / total[:, None]
            covariance = square - loc[:, :, None] * loc[:, None, :]
        raise AssertionError

    return run


def diagonal(problem: Problem, rows: int = 4096) -> Run:
    """Diagonal covariances: the features are `(1, x, x^2)`."""
    x = torch.as_tensor(problem.rows["x"])
    D = x.shape[1]
    centre = x.mean(0)

    def features(block: Tensor, columns: Tensor, out: Tensor) -> None:
        torch.sub(block.T, centre[:, None], out=columns)
        out[0] = 1.0
        out[1 : 1 + D] = columns
        torch.mul(columns, columns, out=out[1 + D :])

    def run(iterations: int) -> Result:
        start = {k: torch.as_tensor(v) for k, v in problem.start.items()}
        weights, loc, variance = start["weights"], start["loc"] - centre, start["scale"] ** 2
        for step in range(iterations + 1):
            constant = weights.log() - 0.5 * (loc**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
            natural = torch.cat([constant[:, None], loc / variance, -0.5 / variance], 1)
            evidence, found = sweep(x, natural, features, rows)
            if step == iterations:
                return Result(evidence)
            total = found[:, :1]
            weights, loc = total[:, 0] / len(x), found[:, 1 : 1 + D] / total
            variance = found[:, 1 + D :] / total - loc**2
        raise AssertionError

    return run


def answers(problem: Problem, rows: int = 4096) -> Run:
    """Bernoulli vectors: the features are `(1, x)`."""
    x = torch.as_tensor(problem.rows["x"])

    def features(block: Tensor, columns: Tensor, out: Tensor) -> None:
        out[0] = 1.0
        out[1:] = block.T

    def run(iterations: int) -> Result:
        weights, probs = torch.as_tensor(problem.start["weights"]), torch.as_tensor(problem.start["probs"])
        for step in range(iterations + 1):
            constant = weights.log() + (1 - probs).log().sum(-1)
            natural = torch.cat([constant[:, None], probs.log() - (1 - probs).log()], 1)
            evidence, found = sweep(x, natural, features, rows)
            if step == iterations:
                return Result(evidence)
            weights, probs = found[:, 0] / len(x), found[:, 1:] / found[:, :1]
        raise AssertionError

    return run


def coins(problem: Problem, rows: int = 16384, flips: int = 10) -> Run:
    """Binomials, row by row: the features are `(1, x)`."""
    x = torch.as_tensor(problem.rows["heads"])[:, None]
    known = float(choose(x[:, 0], flips).sum())

    def features(block: Tensor, columns: Tensor, out: Tensor) -> None:
        out[0] = 1.0
        out[1:] = block.T

    def run(iterations: int) -> Result:
        weights, bias = torch.as_tensor(problem.start["weights"]), torch.as_tensor(problem.start["bias"])
        for step in range(iterations + 1):
            constant = weights.log() + flips * (1 - bias).log()
            natural = torch.stack([constant, bias.log() - (1 - bias).log()], 1)
            evidence, found = sweep(x, natural, features, rows)
            if step == iterations:
                return Result(evidence + known)
            weights, bias = found[:, 0] / len(x), found[:, 1] / found[:, 0] / flips
        raise AssertionError

    return run


def sweep(x: Tensor, natural: Tensor, features: Features, rows: int) -> tuple[float, Tensor]:
    """E-step over blocks of rows, in buffers that are reused: log evidence and statistics `(K, F)`, in float64."""
    K, F = natural.shape
    columns, logits, scratch = x.new_ones(F * rows), x.new_empty(K * rows), x.new_empty(x.shape[1] * rows)
    evidence, found = torch.zeros((), dtype=torch.float64), torch.zeros((K, F), dtype=torch.float64)
    floor = UNDERFLOW if x.dtype == torch.float64 else -80.0
    for block in x.split(rows):
        n = len(block)
        feature, logit = columns[: F * n].view(F, n), logits[: K * n].view(K, n)
        features(block, scratch[: x.shape[1] * n].view(-1, n), feature)
        torch.mm(natural, feature, out=logit)
        top = logit.amax(0)
        logit.sub_(top).clamp_(min=floor).exp_()
        total = logit.sum(0)
        logit.div_(total)
        found += logit @ feature.T
        evidence += top.add_(total.log_()).sum(dtype=torch.float64)
    return float(evidence), found.to(natural.dtype)


def choose(heads: Tensor, flips: int) -> Tensor:
    """Log binomial coefficients."""
    return math.lgamma(flips + 1) - torch.lgamma(heads + 1) - torch.lgamma(flips - heads + 1)


def numpy_coins(problem: Problem, flips: int = 10) -> Run:
    """Binomials as a tutorial writes them: `(N, K)` arrays, and SciPy's log-sum-exp over the last axis."""
    from scipy.special import logsumexp

    def normalise(joint: Array) -> tuple[Array, Array]:
        evidence = logsumexp(joint, axis=1, keepdims=True)
        return evidence, np.exp(joint - evidence)

    return _numpy_coins(problem, flips, normalise)


def numpy_coins_tuned(problem: Problem, flips: int = 10) -> Run:
    """The same with the log-sum-exp written out."""

    def normalise(joint: Array) -> tuple[Array, Array]:
        top = joint.max(1, keepdims=True)
        evidence = top + np.log(np.exp(joint - top).sum(1, keepdims=True))
        return evidence, np.exp(joint - evidence)

    return _numpy_coins(problem, flips, normalise)


def _numpy_coins(problem: Problem, flips: int, normalise: Callable[[Array], tuple[Array, Array]]) -> Run:
    heads = problem.rows["heads"]
    known = choose(torch.as_tensor(heads), flips).numpy()

    def run(iterations: int) -> Result:
        weights, bias = problem.start["weights"], problem.start["bias"]
        for step in range(iterations + 1):
            joint = np.log(weights) + heads[:, None] * np.log(bias) + (flips - heads[:, None]) * np.log1p(-bias)
            evidence, responsibility = normalise(joint)
            if step == iterations:
                return Result(float((evidence[:, 0] + known).sum()))
            total = responsibility.sum(0)
            weights, bias = total / len(heads), heads @ responsibility / total / flips
        raise AssertionError

    return run


def numpy_words(problem: Problem) -> Run:
    """Categories looked up in the logarithms of the parameters, counted with `bincount`."""
    x = problem.rows["x"].astype(int)

    def run(iterations: int) -> Result:
        weights, probs = problem.start["weights"], problem.start["probs"]
        K, V = probs.shape[1:]
        for step in range(iterations + 1):
            with np.errstate(divide="ignore"):
                logs = np.log(probs)
            joint = np.log(weights)[:, None] + sum(logs[j][:, x[:, j]] for j in range(x.shape[1]))
            top = joint.max(0)
            share = np.exp(joint - top)
            total = share.sum(0)
            if step == iterations:
                return Result(float((np.log(total) + top).sum()))
            share /= total
            count = share.sum(1)
            found = [[np.bincount(column, share[k], V) for k in range(K)] for column in x.T]
            weights, probs = count / len(x), np.array(found) / count[:, None]
        raise AssertionError

    return run


def numpy_topics(problem: Problem) -> Run:
    """Shares of documents times probabilities of words, and `bincount` over both."""
    document, word = (problem.rows[name].astype(int) for name in ("document", "word"))

    def run(iterations: int) -> Result:
        share, probs = problem.start["share"], problem.start["probs"]
        (documents, K), V = share.shape, probs.shape[-1]
        for step in range(iterations + 1):
            joint = share[document].T * probs[:, word]
            total = joint.sum(0)
            if step == iterations:
                return Result(float(np.log(total).sum()))
            joint /= total
            share = np.stack([np.bincount(document, joint[k], documents) for k in range(K)], -1)
            probs = np.stack([np.bincount(word, joint[k], V) for k in range(K)])
            share, probs = share / share.sum(-1, keepdims=True), probs / probs.sum(-1, keepdims=True)
        raise AssertionError

    return run
