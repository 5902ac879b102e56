"""The exact law of the enumerated latents at given parameters: evidence, marginals, mode, draws.

Latents that the contraction sums out are asked of `Joint`, states that units sum out themselves of `Inside`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..e_step.build import build
from ..e_step.engine import Engine
from ..e_step.shares import EVIDENCE
from ..e_step.whole import log_factors
from ..errors import ParameterError
from ..program.devices import beside, there
from ..program.handlers import LABELS
from ..program.named import Params, batched, only
from ..reading.bound import Bound
from ..records.frozen import frozen
from ..records.shown import Shown
from .continuous import Continuous
from .entropy import entropy
from .frame import frame
from .inside import Inside
from .joint import Joint, check_together

if TYPE_CHECKING:
    import pandas as pd


@frozen
class Posterior(Shown):
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
    def _apart(self) -> Joint:
        """The same law, all latents of the program left to the contraction: what loops sum out themselves too."""
        here = self.engine
        if not any(set(unit.inside) & set(here.program.latents) for unit in here.units):
            return self._joint
        read = here.recognition
        engine = build(here.program, read, read.runs[0], here.priors, here.alive, chains=False, plate=here.plate)
        return Joint(engine, log_factors(engine, engine.bind(self._bound.batch)))

    @cached_property
    def _inside(self) -> Inside:
        return Inside(self.engine, self._bound, self._joint)

    @cached_property
    def _continuous(self) -> Continuous:
        return Continuous(self.engine, self._bound, self._joint)

    @there
    def log_evidence_by(self, plate: str) -> Tensor:
        """Return the log evidence of every row of a plate, shape `(N,)`, times the row's weight if it has one.

        Raises:
            ParameterError: no such plate, or its rows depend on one another through a latent outside it.
        """
        plates = self.engine.program.plates
        if plate not in plates:
            raise ParameterError(f'log_evidence_by: expected one of the plates {sorted(plates)}, got "{plate}".')
        return replace(self, engine=by_row(self.engine, plate, self.bound))._rows(plate)

    def _rows(self, plate: str) -> Tensor:
        with torch.no_grad():
            return self._joint.by_row(plate) + self._continuous.by_row(plate)

    @there
    def marginal(self, site: str | Sequence[str]) -> Any:
        """Posterior probabilities of one latent: the batch shape that Pyro gives its value, then `(K,)`, the support.

        Of a continuous latent that is integrated its law, of that batch shape: a Normal, or a MultivariateNormal where
        it has events, or a mixture of these over the states of the discrete latents that reach it.

        For a partly labelled site (`obs_mask`), labelled rows are one-hot.

        Args:
            site: its name; or the names of several discrete latents whose plates nest, two steps of a chain among them:
                then the batch shape of all of them together, and `(K_1, K_2, ...)` in the order of the names.

        Raises:
            ParameterError: there are no such latents, or they have no joint table.
        """
        latents, integrated = self.engine.program.latents, self.engine.program.integrated
        if not isinstance(site, (str, Sequence)):
            raise ParameterError(
                f"marginal: expected the name of a latent site, or several, of {sorted({*latents, *integrated})}, "
                f"got {site!r}."
            )
        if not isinstance(site, str):
            with torch.no_grad():
                return self._together(tuple(site))
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
        return self._labelled(self._as_pyros(site, found, 0), site)

    def _together(self, sites: tuple[str, ...]) -> Tensor:
        """Posterior probabilities of several latents: of all their plates, then the states of each."""
        check_together(self.engine.program, sites)
        program, plates = self.engine.program, self._joint.plates_of(sites)
        found = self._law(sites)
        rank = max(program.latents[site].rank for site in sites)
        found = found.reshape((*program.batch_shape(plates, rank), *found.shape[len(plates) :]))
        for k, site in enumerate(sites):
            found = self._labelled(found, site, k, len(sites))
        return found

    def _law(self, sites: Sequence[str]) -> Tensor:
        """The same as the contraction lays it out, before labels."""
        if len(sites) == 1 and sites[0] not in self._joint.free:
            return self._inside.laws[sites[0]]
        joint = self._joint if all(site in self._joint.free for site in sites) else self._apart
        return joint.marginals([tuple(sites)])[tuple(sites)]

    @cached_property
    def entropy(self) -> float:
        """Entropy `-sum p log p` of all discrete latents together, given the data, in nats; row weights count.

        Continuous latents are integrated out. Entries that a mask cuts off from all that is observed are left out: of
        labelled rows, and of steps past the end of a sequence.
        """
        return self._entropy()

    @there
    def _entropy(self) -> float:
        with torch.no_grad():
            run = self.engine.program.run(only(self._bound.batch)) if self.engine.alive else {}
            return entropy(self._joint, self._inside, run, self._law)

    def _labelled(self, found: Tensor, site: str, k: int = 0, many: int = 1) -> Tensor:
        """Put all weight of labelled rows on their labels: of the `k`-th of so many latents."""
        labels = self._labels(site)
        if labels is None:
            return found
        known, values = labels
        states = self.engine.program.latents[site].support
        batch = values.dim() - states.dim() + 1
        same = values.unsqueeze(batch) == states
        same = same.reshape((*same.shape[: batch + 1], -1)).all(-1).to(found.dtype)
        same = same.reshape((*same.shape[:-1], *(same.shape[-1] if i == k else 1 for i in range(many))))
        others = found.sum(k - many, keepdim=True) if many > 1 else 1.0
        return torch.where(known.reshape((*known.shape, *(1,) * many)), same * others, found)

    @there
    def mode(self) -> dict[str, Tensor]:
        """Return the jointly most probable values of all latents (Viterbi), each of the shape of Pyro's own value.

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

        Raises:
            ParameterError: `n` is no number of at least one, or `seed` is no integer.
        """
        if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
            raise ParameterError(f"sample: expected n to be a number of draws of at least one, got {n!r}.")
        if not isinstance(seed, Integral):
            raise ParameterError(f"sample: expected seed to be an integer, got {seed!r}.")
        n, generator = int(n), torch.Generator().manual_seed(int(seed))
        with torch.no_grad():
            inside = self._inside.draws(n, generator)
            chosen = self._joint.choices({}, largest=False).draws(n, generator)
            return self._values(chosen, inside) | self._continuous.draws(chosen, n, generator)

    @there
    def to_frame(self, plate: str | None = None) -> pd.DataFrame:
        """Return the marginals of all latents as a pandas frame: a row for each row of their plate.

        Columns are `(site, state)`: the probability of every state of a discrete latent; of a Gaussian one "mean" and
        "sd", of every coordinate. Latents around the plate are repeated along its rows. The states of a `DiscreteHMM`
        have a row for each "step". Rows have the index of the frame or the columns that the model was given, if that
        has one for each.

        Args:
            plate: whose rows are wanted, where latents are in plates that do not nest, or not those of the innermost.

        Raises:
            ParameterError: there are no latents in the plate, or they are in plates that do not nest.
            ModuleNotFoundError: pandas is not installed.
        """
        return frame(self.engine, self.marginal, plate)

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


def by_row(engine: Engine, plate: str, bound: Bound | None = None) -> Engine:
    """Return the engine of a program in which no factor sums the rows of a plate; of a bound that is of points."""
    recognition = engine.recognition
    if not any(plate in site.data.folded for site in engine.sites.values()):
        return engine
    if bound is not None:
        raise ParameterError(
            f'log_evidence_by: expected a plate whose rows have latents of their own, got "{plate}", whose rows the '
            f"model itself would have to weigh, and it knows points only."
        )
    return build(engine.program, recognition, recognition.runs[0], recognition.priors, {}, recognised=False)


def posterior(engine: Engine, params: Mapping[str, Tensor], bound: Bound | None = None) -> Posterior:
    """Return the posterior of `engine`'s program at `params`, or at what is `bound` in their place."""
    engine = engine.full
    values = {name: value.detach().double() for name, value in params.items()}
    with beside(engine.program.device):
        at = engine.bind(batched(values)) if bound is None else bound
        evidence = float(engine.expect(at, collect=EVIDENCE).log_evidence)
    return Posterior(dict(params), evidence, engine, bound)
