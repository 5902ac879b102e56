"""The exact law of the enumerated latents at given parameters: evidence, marginals, mode, draws.

Latents that the contraction sums out are asked of `Joint`, states that units sum out themselves of `Inside`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..e_step.build import build
from ..e_step.engine import Engine
from ..e_step.shares import EVIDENCE
from ..e_step.whole import log_factors
from ..errors import ParameterError
from ..program.devices import beside, there
from ..program.handlers import LABELS
from ..program.named import Params, batched
from ..reading.bound import Bound
from .continuous import Continuous
from .inside import Inside
from .joint import Joint


@dataclass(frozen=True)
class Posterior:
    """Exact posterior of every discrete latent, given the data and `params`.

    Attributes:
        params: the parameter values.
        log_evidence: log of the sum over all latents; row weights count.
        bound: where arguments come from, if not from `params`: laws, whose expected logarithms take the place of
            logarithms, in the evidence too.
    """

    params: Params = field(repr=False)
    log_evidence: float
    engine: Engine = field(repr=False)
    bound: Bound | None = field(default=None, repr=False)

    @cached_property
    def _bound(self) -> Bound:
        return self.bound or self.engine.bind(
            batched({name: value.detach().double() for name, value in self.params.items()})
        )

    @cached_property
    def _joint(self) -> Joint:
        return Joint(self.engine, log_factors(self.engine, self._bound))

    @cached_property
    def _inside(self) -> Inside:
        return Inside(self.engine, self._bound, self._joint)

    @cached_property
    def _continuous(self) -> Continuous:
        return Continuous(self.engine, self._bound, self._joint)

    @there
    def log_evidence_by(self, plate: str) -> Tensor:
        """Log evidence of every row of a plate, shape `(N,)`, times the row's weight if it has one.

        Raises:
            ParameterError: no such plate, or its rows depend on one another through a latent outside it.
        """
        plates, recognition = self.engine.program.plates, self.engine.recognition
        if plate not in plates:
            raise ParameterError(f'log_evidence_by: expected one of the plates {sorted(plates)}, got "{plate}".')
        if any(plate in site.data.folded for site in self.engine.sites.values()):  # its rows are summed in a factor
            if self.bound is not None:
                raise ParameterError(
                    f'log_evidence_by: expected a plate whose rows have latents of their own, got "{plate}", whose '
                    f"rows the model itself would have to weigh, and it knows points only."
                )
            run, priors = recognition.runs[0], recognition.priors
            whole = build(self.engine.program, recognition, run, priors, {}, recognised=False)
            return replace(self, engine=whole).log_evidence_by(plate)
        with torch.no_grad():
            return self._joint.by_row(plate) + self._continuous.by_row(plate)

    @there
    def marginal(self, site: str) -> Any:
        """Posterior probabilities of one latent: the batch shape that Pyro gives its value, then `(K,)`, the support.

        Of a continuous latent that is integrated its law, of that batch shape: a Normal, or a MultivariateNormal where
        it has events, or a mixture of these over the states of the discrete latents that reach it.

        For a partly labelled site (`obs_mask`), labelled rows are one-hot.
        """
        latents, integrated = self.engine.program.latents, self.engine.program.integrated
        if site in integrated:
            with torch.no_grad():
                return self._continuous.marginal(site)
        if site not in latents and site not in self.engine.inner:
            raise ParameterError(
                f'marginal: expected one of the latent sites {sorted({*latents, *integrated})}, got "{site}".'
            )
        with torch.no_grad():
            free = site in self._joint.free
            found = self._joint.marginal(site) if free else self._inside.laws[site].clone()
        found = self._as_pyros(site, found, 0)
        labels = self._labels(site)
        if labels is None:
            return found
        known, values = labels
        states = latents[site].support
        batch = values.dim() - states.dim() + 1
        same = values.unsqueeze(batch) == states
        same = same.reshape((*same.shape[: batch + 1], -1)).all(-1)
        return torch.where(known.unsqueeze(-1), same.to(found.dtype), found)

    @there
    def mode(self) -> dict[str, Tensor]:
        """The jointly most probable values of all latents (Viterbi), each of the shape of Pyro's own value.

        Labelled rows of a partly labelled site (`obs_mask`) have their labels.
        """
        with torch.no_grad():
            scores, best = self._inside.modes()
            chosen = self._joint.choices({**scores, **self._continuous.scores()}, largest=True).best()
            found = self._values(chosen, best) | self._continuous.modes(chosen)
        return {name: value[0] for name, value in found.items()}

    @there
    def sample(self, n: int = 1, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw `n` times from the joint posterior: `(n,)`, then the shape of Pyro's own value.

        Labelled rows of a partly labelled site (`obs_mask`) have their labels; no global generator moves.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            inside = self._inside.draws(n, generator)
            chosen = self._joint.choices({}, largest=False).draws(n, generator)
            return self._values(chosen, inside) | self._continuous.draws(chosen, n, generator)

    def _values(self, around: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of all latents at chosen indices, and of what is inside units given these: choices first."""
        latents, index = self.engine.program.latents, {**around, **self._inside.chosen(inside, around)}
        found = {name: self._as_pyros(name, latents[name].support[index[name]], 1) for name in latents}
        for name in latents:
            labels = self._labels(name)
            if labels is not None:
                known, values = labels
                known = known.reshape(known.shape + (1,) * (latents[name].support.dim() - 1))
                found[name] = torch.where(known, values.to(found[name].dtype), found[name])
        return found | {name: self._as_pyros(name, index[name], 1) for name in self.engine.inner}

    def _as_pyros(self, site: str, found: Tensor, before: int) -> Tensor:
        """Lay out what was found of a site, one dimension for each plate behind so many others, as Pyro's value is."""
        program, plates = self.engine.program, self._inside.plates_of(site)
        rank = program.latents[site].rank if site in program.latents else 0
        last = found.shape[before + len(plates) :]
        return found.reshape((*found.shape[:before], *program.batch_shape(plates, rank), *last))

    def _labels(self, site: str) -> tuple[Tensor, Tensor] | None:
        """Which rows of a site have a label, and the labels; None if it is not partly labelled."""
        seen = self.engine.recognition.runs[0].get(site + LABELS)
        return None if seen is None or seen.mask is None else (seen.mask, seen.value)

    def __str__(self) -> str:
        """One line: the latents and the log evidence."""
        program = self.engine.program
        latents = [f"{n} ({latent.size} states)" for n, latent in program.latents.items()]
        latents += [n for n in self.engine.recognition.runs[0] if n in program.integrated]
        return f"Posterior of {', '.join(latents) or 'no latent'}; log evidence {self.log_evidence:.6f}"


def posterior(engine: Engine, params: Mapping[str, Tensor], bound: Bound | None = None) -> Posterior:
    """The posterior of `engine`'s program at `params`, or at what is `bound` in their place."""
    engine = engine.full
    values = {name: value.detach().double() for name, value in params.items()}
    with beside(engine.program.device):
        at = engine.bind(batched(values)) if bound is None else bound
        evidence = float(engine.expect(at, collect=EVIDENCE).log_evidence)
    return Posterior(dict(params), evidence, engine, bound)
