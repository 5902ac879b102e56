"""Variational Bayes by hand, in NumPy alone: mixtures, and one hidden Markov chain."""

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma, log, pi

import numpy as np
import torch

Array = np.ndarray


def digamma(x: Array) -> Array:
    """Digamma of an array."""
    return torch.as_tensor(np.array(x, dtype=float)).digamma().numpy()


def log_gamma(x: Array) -> Array:
    """Log-gamma of an array."""
    return torch.as_tensor(np.array(x, dtype=float)).lgamma().numpy()


def expected_logs(shapes: Array) -> Array:
    """`E log p` of rows under a Dirichlet."""
    return digamma(shapes) - digamma(shapes.sum(-1, keepdims=True))


def dirichlet_divergence(shapes: Array, prior: Array) -> float:
    """Of all rows."""
    apart = log_gamma(shapes.sum(-1)) - log_gamma(prior.sum(-1)) - (log_gamma(shapes) - log_gamma(prior)).sum(-1)
    return float((apart + ((shapes - prior) * expected_logs(shapes)).sum(-1)).sum())


@dataclass
class Emission:
    """Laws of what is emitted in every state.

    Attributes:
        expected: from the laws, `E log p(x_n | k)`, shape (rows, states).
        learnt: from responsibilities, shape (rows, states), the laws.
        divergence: of the laws from their prior.
    """

    expected: Callable[[tuple[Array, ...]], Array]
    learnt: Callable[[Array], tuple[Array, ...]]
    divergence: Callable[[tuple[Array, ...]], float]


def mixture(emission: Emission, weights: Array, shares: Array, steps: int) -> tuple[list[float], Array, tuple]:
    """Take steps from responsibilities: the bound at every law, the shapes of the weights, and the other laws."""
    path = list[float]()
    for k in range(steps + 1):
        shapes, laws = weights + shares.sum(0), emission.learnt(shares)
        joint = expected_logs(shapes) + emission.expected(laws)
        top = joint.max(-1, keepdims=True)
        logs = (top + np.log(np.exp(joint - top).sum(-1, keepdims=True)))[:, 0]
        path.append(float(logs.sum()) - dirichlet_divergence(shapes, weights) - emission.divergence(laws))
        if k < steps:
            shares = np.exp(joint - logs[:, None])
    return path, shapes, laws


def binomial(heads: Array, tosses: int, a: float, b: float) -> Emission:
    """Heads of tosses, the bias under `Beta(a, b)`."""
    ways = np.array([lgamma(tosses + 1) - lgamma(h + 1) - lgamma(tosses - h + 1) for h in heads])

    def learnt(shares: Array) -> tuple[Array, ...]:
        return (np.stack([a + heads @ shares, b + (tosses - heads) @ shares], -1),)

    def expected(laws: tuple[Array, ...]) -> Array:
        logs = expected_logs(laws[0])
        return ways[:, None] + heads[:, None] * logs[:, 0] + (tosses - heads[:, None]) * logs[:, 1]

    def divergence(laws: tuple[Array, ...]) -> float:
        return dirichlet_divergence(laws[0], np.broadcast_to(np.array([a, b]), laws[0].shape))

    return Emission(expected, learnt, divergence)


def poisson(counts: Array, a: float, b: float) -> Emission:
    """Counts, the rate under `Gamma(a, b)`."""
    base = np.array([lgamma(c + 1) for c in counts])

    def learnt(shares: Array) -> tuple[Array, ...]:
        return a + counts @ shares, b + shares.sum(0)

    def expected(laws: tuple[Array, ...]) -> Array:
        shape, rate = laws
        return counts[:, None] * (digamma(shape) - np.log(rate)) - shape / rate - base[:, None]

    def divergence(laws: tuple[Array, ...]) -> float:
        shape, rate = laws
        each = (shape - a) * digamma(shape) - log_gamma(shape) + lgamma(a)
        return float((each + a * (np.log(rate) - log(b)) + shape * (b - rate) / rate).sum())

    return Emission(expected, learnt, divergence)


def normal_mean(x: Array, scale: float, m: float, s: float) -> Emission:
    """Numbers with a known scale, the mean under `Normal(m, s)`."""

    def learnt(shares: Array) -> tuple[Array, ...]:
        precision = s**-2 + shares.sum(0) / scale**2
        return (m / s**2 + x @ shares / scale**2) / precision, precision

    def expected(laws: tuple[Array, ...]) -> Array:
        squares = (x[:, None] - laws[0]) ** 2 + 1 / laws[1]
        return -0.5 * (squares / scale**2 + log(2 * pi * scale**2))

    def divergence(laws: tuple[Array, ...]) -> float:
        loc, precision = laws
        ratio = s**-2 / precision
        return float(0.5 * (ratio - 1 - np.log(ratio) + (loc - m) ** 2 / s**2).sum())

    return Emission(expected, learnt, divergence)


def normal_and_precision(x: Array, m: float, s: float, a: float, b: float, start: Array) -> Emission:
    """Numbers, the mean under `Normal(m, s)` and the precision under `Gamma(a, b)`, with laws of their own.

    Args:
        x: the numbers.
        m: of the prior.
        s: likewise.
        a: likewise.
        b: likewise.
        start: precisions of all states before the first law.
    """
    known = {"precision": start}

    def learnt(shares: Array) -> tuple[Array, ...]:
        precision = s**-2 + shares.sum(0) * known["precision"]
        loc = (m / s**2 + x @ shares * known["precision"]) / precision
        scatter = (shares * ((x[:, None] - loc) ** 2 + 1 / precision)).sum(0)
        shape, rate = a + shares.sum(0) / 2, b + scatter / 2
        known["precision"] = shape / rate
        return loc, precision, shape, rate

    def expected(laws: tuple[Array, ...]) -> Array:
        loc, precision, shape, rate = laws
        squares = (x[:, None] - loc) ** 2 + 1 / precision
        return 0.5 * (digamma(shape) - np.log(rate) - log(2 * pi) - shape / rate * squares)

    def divergence(laws: tuple[Array, ...]) -> float:
        loc, precision, shape, rate = laws
        ratio = s**-2 / precision
        means = 0.5 * (ratio - 1 - np.log(ratio) + (loc - m) ** 2 / s**2)
        shapes = (shape - a) * digamma(shape) - log_gamma(shape) + lgamma(a)
        return float((means + shapes + a * (np.log(rate) - log(b)) + shape * (b - rate) / rate).sum())

    return Emission(expected, learnt, divergence)


def normal_wishart(x: Array, m: Array, kappa: float, inverse: Array, df: float) -> Emission:
    """Vectors, mean and precision under a normal-Wishart (Bishop, 2006, section 10.2), all matrices inverted openly."""
    dim = x.shape[1]

    def learnt(shares: Array) -> tuple[Array, ...]:
        n = shares.sum(0)
        means = shares.T @ x / n[:, None]
        apart = x[:, None] - means
        scatter = np.einsum("nk,nki,nkj->kij", shares, apart, apart)
        off = means - m
        pull = (kappa * n / (kappa + n))[:, None, None] * off[:, :, None] * off[:, None, :]
        return (kappa * m + n[:, None] * means) / (kappa + n)[:, None], kappa + n, inverse + scatter + pull, df + n

    def log_det(laws: tuple[Array, ...]) -> Array:
        steps = np.arange(dim)
        return digamma((laws[3][:, None] - steps) / 2).sum(-1) + dim * log(2) - np.linalg.slogdet(laws[2])[1]

    def expected(laws: tuple[Array, ...]) -> Array:
        loc, k, inv, nu = laws
        apart = x[:, None] - loc
        squares = np.einsum("nki,kij,nkj->nk", apart, nu[:, None, None] * np.linalg.inv(inv), apart)
        return 0.5 * (log_det(laws) - dim / k - squares - dim * log(2 * pi))

    def normaliser(inv: Array, nu: float) -> float:
        of_gamma = dim * (dim - 1) / 4 * log(pi) + sum(lgamma((nu - i) / 2) for i in range(dim))
        return nu / 2 * np.linalg.slogdet(inv)[1] - nu * dim / 2 * log(2) - of_gamma

    def divergence(laws: tuple[Array, ...]) -> float:
        total = 0.0
        for loc, k, inv, nu, logs in zip(*laws, log_det(laws), strict=True):
            precision = nu * np.linalg.inv(inv)
            of_mean = dim * log(k / kappa) - dim + dim * kappa / k + kappa * (loc - m) @ precision @ (loc - m)
            apart = normaliser(inv, nu) - normaliser(inverse, df)
            total += 0.5 * of_mean + apart + 0.5 * ((nu - df) * logs - nu * dim + np.trace(inverse @ precision))
        return float(total)

    return Emission(expected, learnt, divergence)


def chain(
    emission: Emission, initial: Array, transition: Array, shares: Array, pairs: Array, steps: int
) -> tuple[list[float], Array, Array, tuple]:
    """One hidden Markov chain: from shares (T, S) and pairs of neighbours (S, S), the bound at every law, and the laws.

    The first state has its own law.
    """
    path = list[float]()
    for k in range(steps + 1):
        first, rows, laws = initial + shares[0], transition + pairs, emission.learnt(shares)
        start, moves, here = expected_logs(first), expected_logs(rows), emission.expected(laws)
        ahead = [start + here[0]]
        for now in here[1:]:
            ahead.append(np.logaddexp.reduce(ahead[-1][:, None] + moves, 0) + now)
        back = [np.zeros(len(initial))]
        for now in here[:0:-1]:
            back.insert(0, np.logaddexp.reduce(moves + now + back[0], 1))
        log_z = float(np.logaddexp.reduce(ahead[-1]))
        apart = dirichlet_divergence(first[None], initial[None]) + dirichlet_divergence(rows, transition)
        path.append(log_z - apart - emission.divergence(laws))
        if k < steps:
            shares = np.exp(np.stack(ahead) + np.stack(back) - log_z)
            joint = [a[:, None] + moves + e + b for a, e, b in zip(ahead[:-1], here[1:], back[1:], strict=True)]
            pairs = np.exp(np.stack(joint) - log_z).sum(0)
    return path, first, rows, laws
