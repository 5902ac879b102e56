"""The exact law of the enumerated latents at given parameters: evidence, marginals, mode, draws.

Latents that the contraction sums out are asked of `Joint`, states that units sum out themselves of `Inside`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..e_step.build import build
from ..e_step.engine import Engine
from ..e_step.shares import EVIDENCE
from ..e_step.whole import log_factors
from ..errors import ParameterError
from ..program.devices import beside, seeded, there
from ..program.named import Params, batched
from ..reading.bound import Bound
from .inside import Inside
from .joint import Joint


@dataclass(frozen=True)
class Posterior:
    """Exact posterior of every discrete latent, given the data and `params`.

    Attributes:
        params: the parameter values.
        log_evidence: log of the sum over all latents; row weights count.
    """

    params: Params = field(repr=False)
    log_evidence: float
    engine: Engine = field(repr=False)

    @cached_property
    def _bound(self) -> Bound:
        return self.engine.bind(batched({name: value.detach().double() for name, value in self.params.items()}))

    @cached_property
    def _joint(self) -> Joint:
        return Joint(self.engine, log_factors(self.engine, self._bound))

    @cached_property
    def _inside(self) -> Inside:
        return Inside(self.engine, self._bound, self._joint)

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
            run, priors = recognition.runs[0], recognition.priors
            whole = build(self.engine.program, recognition, run, priors, {}, recognised=False)
            return replace(self, engine=whole).log_evidence_by(plate)
        with torch.no_grad():
            return self._joint.by_row(plate)

    @there
    def marginal(self, site: str) -> Tensor:
        """Posterior probabilities of one latent: shape (plates of the site) + `(K,)`, the support last.

        For a partly labelled site (`obs_mask`), labelled rows are one-hot.
        """
        latents = self.engine.program.latents
        if site in latents:
            return self._marginal(site)
        if site in self.engine.inner:
            return self._inside.laws[site].clone()
        hidden, seen = f"{site}_unobserved", self.engine.recognition.runs[0].get(f"{site}_observed")
        if hidden in latents and seen is not None and seen.mask is not None:
            probabilities = self._marginal(hidden)
            states = latents[hidden].support
            labels = (seen.value.unsqueeze(seen.value.dim() - states.dim() + 1) == states).double()
            labels = labels.flatten(seen.value.dim()).all(-1).double() if states.dim() > 1 else labels
            return torch.where(seen.mask.unsqueeze(-1), labels, probabilities)
        raise ParameterError(f'marginal: expected one of the latent sites {sorted(latents)}, got "{site}".')

    @there
    def mode(self) -> dict[str, Tensor]:
        """The jointly most probable values of all latents (Viterbi), each of the shape of its plates (+ event)."""
        with torch.no_grad():
            scores, best = self._inside.modes()
            return self._values(self._joint.chosen(lambda value: value.argmax(0), scores, largest=True), best)

    @there
    def sample(self, n: int = 1, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw `n` times from the joint posterior: shape `(n,)` + plates (+ event); no global generator moves."""
        generator = torch.Generator().manual_seed(seed)

        def pick(product: Tensor) -> Tensor:
            top = product.amax(0, keepdim=True)
            gumbel = -(-seeded(torch.rand, product.shape, generator=generator, dtype=product.dtype).log()).log()
            return (torch.where(top == -torch.inf, 0.0, product - top) + gumbel).argmax(0)

        draws = []
        with torch.no_grad():
            inside = self._inside.draws(n, generator)
            for k in range(n):
                around = self._joint.chosen(pick, {}, largest=False)
                draws.append(self._values(around, {name: drawn[k] for name, drawn in inside.items()}))
        return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}

    @torch.no_grad()
    def _marginal(self, site: str) -> Tensor:
        """Posterior probabilities of one latent of the program."""
        return self._joint.marginal(site) if site in self._joint.free else self._inside.laws[site].clone()

    def _values(self, around: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of all latents at chosen indices, and of what is inside units given these."""
        latents, index = self.engine.program.latents, {**around, **self._inside.chosen(inside, around)}
        found = {name: latents[name].support[index[name]] for name in latents}
        return found | {name: index[name] for name in self.engine.inner}

    def __str__(self) -> str:
        """One line: the latents and the log evidence."""
        latents = ", ".join(f"{n} ({latent.size} states)" for n, latent in self.engine.program.latents.items())
        return f"Posterior of {latents or 'no latent'}; log evidence {self.log_evidence:.6f}"


def posterior(engine: Engine, params: Mapping[str, Tensor]) -> Posterior:
    """The posterior of `engine`'s program at `params`."""
    engine = engine.full
    values = {name: value.detach().double() for name, value in params.items()}
    with beside(engine.program.device):
        evidence = float(engine.expect(engine.bind(batched(values)), collect=EVIDENCE).log_evidence)
    return Posterior(dict(params), evidence, engine)
