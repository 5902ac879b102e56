"""Continuous latents that are integrated: their posterior, given the discrete ones and averaged over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..e_step.engine import Engine
from ..errors import ParameterError
from ..program.named import Named
from ..reading.bound import Bound
from ..records.frozen import frozen
from .joint import Joint

if TYPE_CHECKING:
    from ..e_step.gaussian.laws import Laws
    from ..e_step.gaussian.unit import Gaussian, Natural


@frozen
class Continuous:
    """What is known of the continuous latents.

    Attributes:
        engine: the engine of all rows.
        bound: the parameters.
        joint: the law of the discrete latents.
    """

    engine: Engine = field(repr=False)
    bound: Bound = field(repr=False)
    joint: Joint = field(repr=False)

    @cached_property
    def unit(self) -> Gaussian | None:
        """What sums them out; None where there are none."""
        return cast("Gaussian | None", next((unit for unit in self.engine.units if unit.continuous), None))

    @cached_property
    def _natural(self) -> Natural:
        assert self.unit is not None
        return self.unit.natural(self.bound)

    @cached_property
    def laws(self) -> Laws:
        """Their laws in every state of the discrete latents."""
        assert self.unit is not None
        return self.unit.latent_laws(self._natural)

    def marginal(self, site: str) -> Distribution:
        """The posterior of one latent, of the batch shape that Pyro gives its value."""
        assert self.unit is not None
        places = self.unit.places
        shape, events = places.shapes[site], places.events[site]
        batch = shape[: len(shape) - events]
        entries = torch.arange(_count(shape)) + places.first[site]
        entries = entries.reshape((_count(batch), -1))
        means, covariances = self.laws.means[:, entries], self.laws.covariances(entries)
        states = self.laws.states
        means = means.movedim(0, 1).reshape((*batch, states, *shape[len(batch) :]))
        covariances = covariances.movedim(0, 1).reshape((*batch, states, *covariances.shape[-2:]))
        weights = self._weights(entries[:, 0]).movedim(0, 1).reshape((*batch, states))
        if states == 1:
            means, covariances = means.squeeze(len(batch)), covariances.squeeze(len(batch))
        law: Distribution
        if events:
            flat = means.reshape((*means.shape[: means.dim() - events], -1))
            law = dist.MultivariateNormal(flat, scale_tril=_root(covariances), validate_args=False)
        else:
            law = dist.Normal(means, covariances[..., 0, 0].sqrt(), validate_args=False)
        if states == 1:
            return law
        return dist.MixtureSameFamily(dist.Categorical(weights), law)

    def _weights(self, entries: Tensor) -> Tensor:
        """Posterior probability of every joint state at the rows of some entries: (states, entries)."""
        assert self.unit is not None
        share = self.joint.share(self.unit)
        by_state = None if share is None else self.unit.by_state(share.unsqueeze(0))
        if by_state is None:
            return torch.ones((1, len(entries)), dtype=torch.float64)
        by_state = by_state[0]
        by_state = by_state.expand((self.laws.states, self.laws.rows))
        return by_state[:, self.laws.places[3][entries]]

    def by_row(self, plate: str) -> Tensor | float:
        """Log evidence of every row of a plate by what discrete latents do not reach: the contraction has the rest.

        Raises:
            ParameterError: continuous latents join the rows.
        """
        if self.unit is None or plate in self.unit.plates:
            return 0.0
        found = None
        if not self.unit.states:
            found = self.unit.evidence_by(plate, self.engine.program.plates[plate], self._natural)
        if found is None:
            raise ParameterError(
                f'log_evidence_by("{plate}"): expected independent rows, but continuous latents outside the plate '
                f"({', '.join(list(self.unit.continuous)[:3])}) join them. Ask for a plate that holds them."
            )
        scale = self.engine.joined[self.unit.name].scale
        return found if scale is None else found * scale.tensor

    def scores(self) -> dict[str, Named]:
        """Log-density of the means, by the factor of the unit: what the joint mode maximises over discrete latents."""
        if self.unit is None:
            return {}
        (evidence,), _ = self.unit.log_factors(self._natural)
        return {self.unit.name: Named((evidence + self.unit.laid_out(self.laws.peaks)).squeeze(0), self._names)}

    @property
    def _names(self) -> tuple[str, ...]:
        assert self.unit is not None
        return self.engine.joined[self.unit.name].names

    def modes(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means at the chosen states of the discrete latents: choices first."""
        return self._values(self.laws.at(self._state(chosen))) if self.unit is not None else {}

    def draws(self, chosen: Mapping[str, Tensor], n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Values drawn at the chosen states, `n` of them."""
        if self.unit is None:
            return {}
        state = self._state(chosen)
        return self._values(self.laws.draws(state.expand((n, state.shape[-1])), generator))

    def _state(self, chosen: Mapping[str, Tensor]) -> Tensor:
        assert self.unit is not None
        latents = self.engine.program.latents
        return self.unit.state(chosen, {name: latents[name].plates for name in self.unit.states})

    def _values(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut entries side by side, behind the choices, into the values of the latents."""
        assert self.unit is not None
        places = self.unit.places
        return {
            name: flat[:, places.first[name] : places.first[name] + _count(shape)].reshape((len(flat), *shape))
            for name, shape in places.shapes.items()
        }


def _count(shape: tuple[int, ...]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


def _root(covariance: Tensor) -> Tensor:
    """Roots of covariances, zero in coordinates that are known exactly."""
    known = covariance.diagonal(dim1=-2, dim2=-1) == 0
    root = torch.linalg.cholesky(covariance + torch.diag_embed(known.to(covariance.dtype)))
    return torch.where(known.unsqueeze(-1), 0.0, root)
