"""The conjugate law of a mean and a precision together, for which Pyro has no distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..errors import ParameterError
from ..program.named import broadcast

Number = Tensor | float


class NormalWishart:
    """`P ~ Wishart(W, df)` and, given it, `mu ~ Normal(loc, (kappa P)^-1)`, of a mean `mu` and a precision `P`.

    Prior and law alike. All may have the same batch dimensions in front; what lacks them is broadcast.

    Args:
        loc: expected mean, shape `(..., D)`, in the units of the values.
        kappa: observations that `loc` is worth, `(...)`; above zero.
        scale_matrix_inverse: `W^-1`, `(..., D, D)`, in squared units: a sum of squares around the mean.
        df: observations that this is worth, `(...)`; above `D - 1`.

    Raises:
        ParameterError: shapes do not fit, a number is out of its range, or the matrix is not positive definite.

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, equations 10.40, B.78 to B.82.
    """

    def __init__(self, loc: Number, kappa: Number, scale_matrix_inverse: Number, df: Number) -> None:
        """Bring all to one batch shape, in double precision."""
        parts = (torch.as_tensor(p, dtype=torch.float64).detach() for p in (loc, kappa, scale_matrix_inverse, df))
        mean, strength, inverse, degrees = parts
        mean = mean.reshape(1) if mean.dim() == 0 else mean
        inverse = inverse.reshape(1, 1) if inverse.dim() == 0 else inverse
        dim = mean.shape[-1]
        if inverse.dim() < 2 or inverse.shape[-2:] != (dim, dim):
            raise ParameterError(
                f"NormalWishart: expected scale_matrix_inverse to be of shape (..., {dim}, {dim}), as loc has {dim} "
                f"coordinates, got {tuple(inverse.shape)}."
            )
        try:
            shape = broadcast(mean.shape[:-1], strength.shape, inverse.shape[:-2], degrees.shape)
        except RuntimeError as error:
            raise ParameterError(f"NormalWishart: expected batch shapes that broadcast, got {error}.") from error
        if not bool((strength > 0).all()) or not bool((degrees > dim - 1).all()):
            raise ParameterError(
                f"NormalWishart: expected kappa above 0 and df above {dim - 1}, which is D - 1, got "
                f"{strength.tolist()} and {degrees.tolist()}."
            )
        if bool(torch.linalg.cholesky_ex(inverse)[1].any()) or not torch.allclose(inverse, inverse.mT):
            raise ParameterError("NormalWishart: expected scale_matrix_inverse to be symmetric and positive definite.")
        self.loc, self.kappa = mean.expand((*shape, dim)), strength.expand(shape)
        self.scale_matrix_inverse, self.df = inverse.expand((*shape, dim, dim)), degrees.expand(shape)

    def __repr__(self) -> str:
        """The sizes."""
        return f"NormalWishart(batch_shape={tuple(self.batch_shape)}, dim={self.dim})"

    @property
    def dim(self) -> int:
        """`D`."""
        return self.loc.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """Of all means."""
        return self.kappa.shape

    @property
    def mean(self) -> Tensor:
        """`E mu`, shape `(..., D)`."""
        return self.loc

    @property
    def precision(self) -> Tensor:
        """`E P = df W`, shape `(..., D, D)`."""
        return self.df[..., None, None] * torch.cholesky_inverse(self._root)

    @property
    def covariance(self) -> Tensor:
        """`(E P)^-1 = W^-1 / df`, shape `(..., D, D)`: what stands for the covariance; `E P^-1` is larger."""
        return self.scale_matrix_inverse / self.df[..., None, None]

    def expand(self, batch_shape: Sequence[int]) -> NormalWishart:
        """The same law of as many means."""
        shape = tuple(batch_shape)
        return NormalWishart(
            self.loc.expand((*shape, self.dim)),
            self.kappa.expand(shape),
            self.scale_matrix_inverse.expand((*shape, self.dim, self.dim)),
            self.df.expand(shape),
        )

    @cached_property
    def _root(self) -> Tensor:
        return torch.linalg.cholesky(self.scale_matrix_inverse)

    @cached_property
    def _log_det(self) -> Tensor:
        """`log |W|`."""
        return -2 * self._root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def expected_log_det(self) -> Tensor:
        """`E log |P|`, shape `(...)` (Bishop, B.81)."""
        steps = torch.arange(self.dim, dtype=torch.float64, device=self.df.device)
        shapes = (self.df.unsqueeze(-1) - steps) / 2
        return shapes.digamma().sum(-1) + self.dim * math.log(2) + self._log_det

    @property
    def excess(self) -> Tensor:
        """`E log p(x | mu, P)` less the log-density at `loc` and `(E P)^-1`, which is the same for all `x`: `(...)`."""
        at_mean = self.dim * self.df.log() + self._log_det
        return (self.expected_log_det - at_mean - self.dim / self.kappa) / 2

    def updated(
        self, about: Tensor, n: Tensor, first: Tensor, second: Tensor, shared: Callable[[Tensor], Tensor]
    ) -> NormalWishart:
        """The law given observations (Bishop, 10.60 to 10.63), whose sums are of values less `about`.

        Args:
            about: `(..., D)`.
            n: their weight, `(...)`.
            first: sum of the deviations, `(..., D)`.
            second: sum of their products, `(..., D, D)`.
            shared: sums what belongs to one precision over the means that have it.
        """
        kappa, prior = self.kappa + n, self.loc - about
        moved = (self.kappa.unsqueeze(-1) * prior + first) / kappa.unsqueeze(-1)
        scatter = second + self.kappa[..., None, None] * _outer(prior) - kappa[..., None, None] * _outer(moved)
        inverse = self.scale_matrix_inverse + shared(scatter + scatter.mT) / 2
        return NormalWishart(about + moved, kappa, inverse, self.df + shared(n))

    def disturbed(self, nats: float, means: Tensor, axes: Tensor) -> NormalWishart:
        """The law with its means, and the axes of the precision, so far from here that each costs about `nats`.

        Args:
            nats: of divergence.
            means: standard normal numbers, `(..., D)`.
            axes: the same.
        """
        df, kappa = self.df.unsqueeze(-1), self.kappa.unsqueeze(-1)
        away = ((2 * nats / (kappa * df)).sqrt() * means).unsqueeze(-1)
        longer = ((4 * nats / df).sqrt().clamp(max=1.0) * axes).exp()
        inverse = (self._root * longer.unsqueeze(-2)) @ self._root.mT
        return NormalWishart(
            self.loc + (self._root @ away).squeeze(-1), self.kappa, (inverse + inverse.mT) / 2, self.df
        )

    def divergence(self, prior: NormalWishart, counted: Number = 1.0) -> Tensor:
        """Kullback-Leibler divergence of this law from `prior`, in nats: `(...)`; that of precisions as `counted`."""
        ratio, dim = prior.kappa / self.kappa, self.dim
        apart = (self.loc - prior.loc).unsqueeze(-1)
        precision = self.precision
        of_mean = (dim * (ratio - 1 - ratio.log()) + prior.kappa * (apart.mT @ precision @ apart)[..., 0, 0]) / 2
        trace = (prior.scale_matrix_inverse * precision).sum((-2, -1))
        of_precision = self._log_normaliser - prior._log_normaliser
        of_precision = of_precision + ((self.df - prior.df) * self.expected_log_det - self.df * dim + trace) / 2
        return of_mean + counted * of_precision

    @property
    def _log_normaliser(self) -> Tensor:
        """Of the Wishart density (Bishop, B.79)."""
        half = self.df / 2
        return -half * self._log_det - half * self.dim * math.log(2) - torch.mvlgamma(half, self.dim)


def _outer(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) * x.unsqueeze(-2)
