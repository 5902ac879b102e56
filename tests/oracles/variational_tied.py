"""Variational Bayes by hand where means share a scale, in NumPy alone: one precision of all states, or of a state."""

from math import lgamma, log, pi

import numpy as np

from .variational import Array, Emission, digamma, log_gamma


def tied(x: Array, m: Array, kappa: float, inverse: Array, df: float) -> Emission:
    """Vectors with means of their own and one precision, `P ~ Wishart` and `mu_k | P ~ Normal(m, (kappa P)^-1)`."""
    dim = x.shape[1]

    def learnt(shares: Array) -> tuple[Array, ...]:
        n = shares.sum(0)
        means = shares.T @ x / n[:, None]
        apart = x[:, None] - means
        off = means - m
        scatter = np.einsum("nk,nki,nkj->ij", shares, apart, apart)
        scatter = scatter + np.einsum("k,ki,kj->ij", kappa * n / (kappa + n), off, off)
        return (kappa * m + n[:, None] * means) / (kappa + n)[:, None], kappa + n, inverse + scatter, df + n.sum()

    def log_det(laws: tuple[Array, ...]) -> float:
        return float(digamma((laws[3] - np.arange(dim)) / 2).sum() + dim * log(2) - np.linalg.slogdet(laws[2])[1])

    def expected(laws: tuple[Array, ...]) -> Array:
        loc, k, inv, nu = laws
        apart = x[:, None] - loc
        squares = np.einsum("nki,ij,nkj->nk", apart, nu * np.linalg.inv(inv), apart)
        return 0.5 * (log_det(laws) - dim / k - squares - dim * log(2 * pi))

    def divergence(laws: tuple[Array, ...]) -> float:
        loc, k, inv, nu = laws
        precision = nu * np.linalg.inv(inv)
        off = np.einsum("ki,ij,kj->k", loc - m, precision, loc - m)
        of_means = (dim * np.log(k / kappa) - dim + dim * kappa / k + kappa * off).sum() / 2
        apart = wishart(inv, nu) - wishart(inverse, df)
        rest = (nu - df) * log_det(laws) - nu * dim + np.trace(inverse @ precision)
        return float(of_means + apart + rest / 2)

    return Emission(expected, learnt, divergence)


def wishart(inverse: Array, df: float) -> float:
    """Logarithm of the factor of a Wishart density."""
    dim = len(inverse)
    of_gamma = dim * (dim - 1) / 4 * log(pi) + sum(lgamma((df - i) / 2) for i in range(dim))
    return float(df / 2 * np.linalg.slogdet(inverse)[1] - df * dim / 2 * log(2) - of_gamma)


def spherical(x: Array, m: float, kappa: float, inverse: float, df: float, *, one: bool) -> Emission:
    """Vectors whose coordinates have one scale, of each state or of all: `tau ~ Gamma(df / 2, inverse / 2)`."""
    dim = x.shape[1]

    def learnt(shares: Array) -> tuple[Array, ...]:
        n = shares.sum(0)
        means = shares.T @ x / n[:, None]
        squares = np.einsum("nk,nki->k", shares, (x[:, None] - means) ** 2)
        squares = squares + kappa * n / (kappa + n) * ((means - m) ** 2).sum(1)
        shape, rate = (df + dim * n) / 2, (inverse + squares) / 2
        if one:
            shape, rate = np.full(len(n), (df + dim * n.sum()) / 2), np.full(len(n), (inverse + squares.sum()) / 2)
        return (kappa * m + n[:, None] * means) / (kappa + n)[:, None], kappa + n, shape, rate

    def expected(laws: tuple[Array, ...]) -> Array:
        loc, k, shape, rate = laws
        squares = ((x[:, None] - loc) ** 2).sum(2)
        return 0.5 * (dim * (digamma(shape) - np.log(rate) - 1 / k - log(2 * pi)) - shape / rate * squares)

    def divergence(laws: tuple[Array, ...]) -> float:
        loc, k, shape, rate = laws
        off = kappa * shape / rate * ((loc - m) ** 2).sum(1)
        of_means = (dim * (np.log(k / kappa) - 1 + kappa / k) + off).sum() / 2
        a, b = df / 2, inverse / 2
        each = (shape - a) * digamma(shape) - log_gamma(shape) + lgamma(a)
        each = each + a * (np.log(rate) - log(b)) + shape * (b - rate) / rate
        return float(of_means + (each[0] if one else each.sum()))

    return Emission(expected, learnt, divergence)
