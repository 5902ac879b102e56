"""The E-step: bind the arguments, evaluate the factors, contract them, and collect expected statistics.

Recognised sites are `Term`s, evaluated without the model; the others are replayed. Either way the weights come from the
same contraction. Rows of the largest plate are taken in blocks that stay in cache, where the program allows it; the
statistics of blocks add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .centred import Centred
from .contraction import Factor
from .hmm import Hmm
from .markov import Markov
from .mixture import Mixture
from .named import Named
from .part import Part, Unit, add
from .priors import Prior, log_prior
from .program import Params, Program, Site
from .reading import Recognition
from .stack import Stack
from .term import Bound, Term


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
    uncollapsed: Engine | None = field(default=None, repr=False)  # of all rows, if this one has the distinct ones

    around: Params | None = field(default=None, repr=False)  # where centred cells are centred; None is where they are

    @property
    def full(self) -> Engine:
        """The engine of all rows."""
        return self.uncollapsed or self

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
        """The atoms of the bank at `params`, each computed when it is first asked for."""
        return Bound(params, self.recognition.bank, lead, self.around)

    def expect(self, params: Params, lead: int = 0) -> Expectation:
        """Run one E-step at `params` (float64, after `lead` dimensions of starts)."""
        with torch.no_grad():
            bound = self.bind(params, lead)
            replays = self.replays(params)
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
            prior = log_prior(self.priors, params, lead) + self._replayed_prior(params)
            return Expectation(torch.as_tensor(evidence), prior, statistics, weights)

    def q(self, params: Params, found: Expectation, lead: int = 0) -> Tensor:
        """`Q(params) = sum_s <W_s, L_s(params)> + log prior`, up to what no parameter enters; differentiable."""
        bound = self.bind(params, lead)
        total = log_prior(self.priors, params, lead)
        for name, statistics in found.statistics.items():
            product = self.leaders[name].inner(bound, statistics)
            total = total + product.sum(tuple(range(lead, product.dim())))
        if self.moving or any(p.fn is None for p in self.priors.values()):
            sites = self.program.run(params)
            for name in self.moving:
                log_prob = sites[name].log_prob().tensor.double()
                weight = found.weights[name]
                total = total + torch.where(weight != 0, log_prob, 0.0).mul(weight).sum()
            total = total + sum(_prior_of(sites[p.name]) for p in self.priors.values() if p.fn is None)
        return total

    def log_factors(self, params: Params) -> dict[str, Named]:
        """All factors at `params`, whole: what the posterior is made of."""
        bound, replays = self.bind(params), self.replays(params)
        factors = {}
        apart = {unit.term.name: unit for unit in self.units if isinstance(unit, Centred)}
        for name, term in self.terms.items():
            if name in apart:
                (factor,), _ = apart[name].factors(apart[name].natural(bound), apart[name].features())
            else:
                factor = term.factor(term.natural(bound), term.features())
            base = term.base()
            factors[name] = Named(factor if base is None else factor + base.align(term.names), term.names)
        for name, hmm in self.hmms.items():
            (factor,), _ = hmm.factors(hmm.natural(bound, replays), hmm.features())
            base = hmm.emission.base() if isinstance(hmm.emission, Term) else None
            if base is not None:
                kept = base.align((*hmm.names, *(n for n in base.names if n not in hmm.names)))
                extra = tuple(range(len(hmm.names), kept.dim()))
                factor = factor + (kept.sum(extra) if extra else kept)
            factors[name] = Named(factor, hmm.names)
        return factors | {name: part for name, part in replays.items() if name not in self.inside}

    @cached_property
    def inside(self) -> frozenset[str]:
        """Replayed parts of a DiscreteHMM: they have weights, and no factor of their own."""
        return frozenset(name for hmm in self.hmms.values() for name in hmm.replayed)

    def replays(self, params: Params) -> dict[str, Named]:
        """Factors of the sites that are not compiled; those that no parameter enters, as they were found first."""
        if not self.moving:
            return dict(self.constants)
        with torch.no_grad():
            sites = self.program.run(params)
            found = {name: sites[name].log_prob() for name in self.moving}
        return {**self.constants, **{n: Named(part.tensor.double(), part.names) for n, part in found.items()}}

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """Replayed sites, and parts of sites, that some parameter enters."""
        return tuple(name for name in (*self.replayed, *self.inside) if name not in self.constants)

    def _replayed_prior(self, params: Params) -> Tensor:
        open_priors = [p.name for p in self.priors.values() if p.fn is None]
        if not open_priors:
            return torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            sites = self.program.run(params)
            return sum((_prior_of(sites[name]) for name in open_priors), torch.zeros((), dtype=torch.float64))


def _prior_of(site: Site) -> Tensor:
    """Log-density of a prior whose arguments are parameters themselves."""
    return (site.log_prob().tensor.double() * torch.as_tensor(site.scale)).sum()

