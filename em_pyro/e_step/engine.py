"""The E-step: bind the arguments, evaluate the factors, contract them, and collect expected statistics.

Recognised sites are `Term`s, evaluated without the model; the others are replayed. Either way the weights come from the
same contraction. Rows of the largest plate are taken in blocks that stay in cache, where the program allows it; the
statistics of blocks add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..program.named import Named, Params
from ..program.program import Program
from ..reading.bound import Bound
from ..reading.priors import Prior, log_prior
from ..reading.reading import Recognition
from ..recording.recorded import NOTHING, Moved, Recording, played
from .chains.hmm import Hmm
from .chains.markov import Markov
from .contraction import Factor
from .mixture import Mixture
from .part import Part, Unit, add
from .sites.centring import Centred
from .sites.lean import Features
from .sites.site_factor import Term
from .sites.stack import Stack


@dataclass(frozen=True)
class Expectation:
    """What an E-step returns.

    Attributes:
        log_evidence: `log Z` at the parameters used, shape `(starts)`.
        log_prior: of the parameters used.
        statistics: expected sufficient statistics of every term, summed over rows.
        weights: posterior weights of every replayed site that has parameters.
    """

    log_evidence: Tensor
    log_prior: Tensor
    statistics: Mapping[str, Tensor] = field(repr=False)
    weights: Mapping[str, Tensor] = field(repr=False)

    @property
    def objective(self) -> Tensor:
        """What EM ascends: log evidence plus log prior."""
        return self.log_evidence + self.log_prior


@dataclass(frozen=True)
class Engine:
    """A program ready to run: terms, replayed sites, priors and the schedule of contractions."""

    program: Program
    recognition: Recognition
    terms: Mapping[str, Term]
    units: tuple[Unit, ...]  # the terms again, those that are one function together, and chains
    factors: Mapping[str, Factor]
    replayed: Mapping[str, Factor]
    priors: Mapping[str, Prior]
    parts: tuple[Part | Mixture, ...]
    base: float  # log base measures, which no step changes
    offsets: Mapping[str, Named]  # those that differ between states
    sizes: Mapping[str, int]  # of all latents and plates, in the order of tensor dimensions
    whole: str  # why rows are not taken in blocks; empty if they are, or need not be
    alive: Mapping[str, Named] = field(default_factory=dict, repr=False)
    constants: Mapping[str, Named] = field(default_factory=dict, repr=False)  # replayed sites without parameters
    recording: Recording | None = None  # of the sites that move; without one, the model is run for them
    unrecorded: str = ""  # why there is none
    uncollapsed: Engine | None = field(default=None, repr=False)  # of all rows, if this one has the distinct ones

    complete: Engine | None = field(default=None, repr=False)  # with all features, if this one is lean
    around: Params | None = field(default=None, repr=False)  # where centred cells are centred; None is where they are

    @property
    def full(self) -> Engine:
        """The engine of all rows."""
        return self.uncollapsed or self

    @cached_property
    def lean(self) -> Engine:
        """The same without the features that follow from others; itself if there are none."""
        parts = tuple(part.lean if isinstance(part, Mixture) else part for part in self.parts)
        changed = any(new is not old for new, old in zip(parts, self.parts, strict=True))
        return replace(self, parts=parts, complete=self) if changed else self

    @cached_property
    def leaning(self) -> tuple[Features, ...]:
        """Features of which some are left out."""
        return tuple(part.features for part in self.parts if isinstance(part, Mixture) and part.features.lean)

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """All sites for which one term of `leaders` stands."""
        found: dict[str, tuple[str, ...]] = {}
        for unit in self.units:
            stacks = unit.stacks if isinstance(unit, Markov) else (unit,) if isinstance(unit, Stack) else ()
            found |= {term.name: (term.name,) for term in unit.parts} | {s.first.name: s.members for s in stacks}
        return found

    @cached_property
    def leaders(self) -> dict[str, Term]:
        """One term for each that is the same function: the statistics carry its name."""
        return {term.name: term for unit in self.units for term in unit.parts}

    @cached_property
    def hmms(self) -> dict[str, Hmm]:
        """Sites whose states are summed out inside."""
        return {unit.name: unit for unit in self.units if isinstance(unit, Hmm)}

    def bind(self, params: Params, lead: int = 0) -> Bound:
        """The atoms of the bank at `params`, each computed when it is first asked for.

        Those of the last values are kept: the loop looks at the scales of what the next step starts from.
        """
        last = self._last
        if last and last[0].params is params and last[0].lead == lead and not torch.is_grad_enabled():
            return last[0]
        bound = Bound(params, self.recognition.bank, lead, self.around)
        if not torch.is_grad_enabled():
            last[:] = [bound]
        return bound

    @cached_property
    def _last(self) -> list[Bound]:
        return []

    def expect(self, params: Params, lead: int = 0) -> Expectation:
        """Run one E-step at `params` (float64, after `lead` dimensions of starts)."""
        with torch.no_grad():
            bound = self.bind(params, lead)
            moved = self.moved(params)
            replays = self.replays(moved)
            natural = {
                unit.members[0]: unit.natural(bound, replays) if isinstance(unit, Hmm) else unit.natural(bound)
                for unit in self.units
            }
            statistics: dict[str, Tensor] = {}
            weights: dict[str, Tensor] = {}
            evidence: Tensor | float = self.base
            for part in self.parts:
                sums = part.sums(natural, replays, self.offsets, lead)
                evidence = evidence + sums.log_evidence
                add(statistics, sums.statistics)
                weights.update(sums.weights)
            prior = log_prior(self.priors, params, lead)
            prior = prior if moved is NOTHING else prior + moved.prior
            return Expectation(torch.as_tensor(evidence), prior, statistics, weights)

    def q(self, params: Params, found: Expectation, lead: int = 0) -> Tensor:
        """`Q(params) = sum_s <W_s, L_s(params)> + log prior`, up to what no parameter enters; differentiable."""
        return self._q(params, found, self.leaders, self.priors, self.moved(params), lead)

    def q_of(self, free: Sequence[str], found: Expectation, params: Params) -> Callable[[Params], Tensor]:
        """The part of `Q` that some of `free` enter, the other parameters fixed where they are."""
        names = set(free)
        leaders = {n: term for n, term in self.leaders.items() if names & term.parameters}
        priors = {n: prior for n, prior in self.priors.items() if n in names}
        recording = None if self.recording is None else self.recording.at(params, free)

        def q(values: Params) -> Tensor:
            moved = self.moved(values) if recording is None else recording(values)
            return self._q(values, found, leaders, priors, moved, 0)

        return q

    def _q(
        self,
        params: Params,
        found: Expectation,
        leaders: Mapping[str, Term],
        priors: Mapping[str, Prior],
        moved: Moved,
        lead: int,
    ) -> Tensor:
        bound = self.bind(params, lead)
        total = log_prior(priors, params, lead) + moved.weighted(found.weights)
        for name, term in leaders.items():
            statistics = found.statistics.get(name)
            if statistics is not None:
                product = term.inner(bound, statistics)
                total = total + product.sum(tuple(range(lead, product.dim())))
        return total

    def magnitude(self, found: Expectation, params: Params) -> float:
        """Sum of the absolute terms of `Q`: what its rounding, and that of its gradient, is relative to."""
        with torch.no_grad():
            bound = self.bind(params)
            terms = (self.leaders[name].inner(bound, part) for name, part in found.statistics.items())
            return float(sum((term.abs().sum() for term in terms), torch.zeros((), dtype=torch.float64)))

    def compiled_factors(self, params: Params) -> dict[str, Named]:
        """Factors of the terms at `params`, whole."""
        bound, factors = self.bind(params), dict[str, Named]()
        apart = {unit.term.name: unit for unit in self.units if isinstance(unit, Centred)}
        for name, term in self.terms.items():
            if name in apart:
                (factor,), _ = apart[name].factors(apart[name].natural(bound), apart[name].features())
            else:
                factor = term.factor(term.natural(bound), term.features())
            base = term.base()
            factors[name] = Named(factor if base is None else factor + base.align(term.names), term.names)
        return factors

    def log_factors(self, params: Params) -> dict[str, Named]:
        """All factors at `params`, whole: what the posterior is made of."""
        bound = self.bind(params)
        with torch.no_grad():
            replays = self.replays(self.moved(params))
        factors = self.compiled_factors(params)
        for name, hmm in self.hmms.items():
            (factor,), _ = hmm.factors(hmm.natural(bound, replays), hmm.features())
            base = hmm.emission.base() if isinstance(hmm.emission, Term) else None
            if base is not None:
                kept = base.align((*hmm.names, *(n for n in base.names if n not in hmm.names)))
                extra = tuple(range(len(hmm.names), kept.dim()))
                factor = factor + (kept.sum(extra) if extra else kept)
            factors[name] = Named(factor, hmm.names)
        return factors | {name: part for name, part in replays.items() if name not in self.inside}

    def moved(self, params: Params) -> Moved:
        """Factors of the sites that are not compiled and that some parameter enters, and of priors with parameters."""
        if self.recording is not None:
            return self.recording(params)
        if not self.moving and not self.open_priors:
            return NOTHING
        return played(self.program, self.moving, self.open_priors, params)

    def replays(self, moved: Moved) -> dict[str, Named]:
        """Factors of all sites that are not compiled; those that no parameter enters, as they were found first."""
        return {**self.constants, **moved.factors}

    @property
    def open(self) -> bool:
        """Whether parameters enter a density of the model's own: of a replayed site, or a prior with parameters."""
        return bool(self.moving or self.open_priors)

    @cached_property
    def inside(self) -> frozenset[str]:
        """Replayed parts of a DiscreteHMM: they have weights, and no factor of their own."""
        return frozenset(name for hmm in self.hmms.values() for name in hmm.replayed)

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """Replayed sites, and parts of sites, that some parameter enters."""
        return tuple(name for name in (*self.replayed, *self.inside) if name not in self.constants)

    @cached_property
    def open_priors(self) -> tuple[str, ...]:
        """Priors whose arguments are parameters themselves."""
        return tuple(name for name, prior in self.priors.items() if prior.fn is None)

    @property
    def runs_model(self) -> bool:
        """Whether the model is run in every step."""
        return self.recording is None and self.open
