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

from .bundle import Bundle
from .contraction import Factor, Schedule
from .hmm import Hmm
from .markov import Markov
from .named import Named
from .priors import Prior, log_prior
from .program import Params, Program, Site
from .reading import Recognition
from .stack import Stack
from .term import Block, Bound, Term


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


Unit = Stack | Bundle | Hmm | Markov


@dataclass(frozen=True)
class Part:
    """Factors that are contracted together, over some blocks of rows."""

    schedules: tuple[tuple[Block, Schedule], ...]
    names: tuple[str, ...]
    units: tuple[Unit, ...]
    replayed: tuple[str, ...]


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
    parts: tuple[Part, ...]
    base: float  # log base measures, which no step changes
    offsets: Mapping[str, Named]  # those that differ between states
    sizes: Mapping[str, int]  # of all latents and plates, in the order of tensor dimensions
    whole: str  # why rows are not taken in blocks; empty if they are, or need not be
    constants: Mapping[str, Named] = field(default_factory=dict, repr=False)  # replayed sites without parameters
    uncollapsed: Engine | None = field(default=None, repr=False)  # of all rows, if this one has the distinct ones

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
        """Evaluate every atom of the bank once."""
        bank = self.recognition.bank
        matrices = bank.stack(params, lead) if bank.matrices else torch.zeros(0, dtype=torch.float64)
        return Bound(params, bank.values(params, lead), bank.logs(params, lead), matrices, lead)

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
                for block, schedule in part.schedules:
                    features = [unit.features(block) for unit in part.units]
                    inputs = {name: _cut(replays[name], block) for name in part.replayed}
                    memos = []
                    for unit, columns in zip(part.units, features, strict=True):
                        found, memo = unit.factors(natural[unit.members[0]], columns, block, lead)  # type: ignore[arg-type]
                        memos.append(memo)
                        inputs.update(zip(unit.members, found, strict=True))
                    for name in self.offsets.keys() & inputs.keys():
                        inputs[name] = inputs[name] + _cut(self.offsets[name], block)
                    log_z, weighed = schedule.contract([inputs[name] for name in part.names])
                    evidence = evidence + log_z
                    share = dict(zip(part.names, weighed, strict=True))
                    for unit, columns, memo in zip(part.units, features, memos, strict=True):
                        shares = [share[name] for name in unit.members]
                        sums = unit.statistics(shares, columns, memo, block, lead)  # type: ignore[arg-type]
                        for name, part_sum in sums.items():
                            if name in self.inside:
                                _append(weights, name, part_sum, replays[name], block)
                                continue
                            statistics[name] = statistics[name].add_(part_sum) if name in statistics else part_sum
                    for name in part.replayed:
                        if name in self.constants:
                            continue
                        _append(weights, name, share[name], replays[name], block)
            prior = log_prior(self.priors, params, lead) + self._replayed_prior(params)
            return Expectation(torch.as_tensor(evidence), prior, statistics, weights)

    def q(self, params: Params, found: Expectation, lead: int = 0) -> Tensor:
        """`Q(params) = sum_s <W_s, L_s(params)> + log prior`, up to what no parameter enters; differentiable."""
        bound = self.bind(params, lead)
        total = log_prior(self.priors, params, lead)
        for name, statistics in found.statistics.items():
            eta = self.leaders[name].natural(bound)
            product = torch.where(statistics != 0, eta * statistics, 0.0)
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
        for name, term in self.terms.items():
            factor, base = term.factor(term.natural(bound), term.features()), term.base()
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


def _append(weights: dict[str, Tensor], name: str, share: Tensor | None, replay: Named, block: Block) -> None:
    """Put the weights of a block of rows beside those of the blocks before it."""
    assert share is not None
    if name in weights and block.plate in replay.names:
        share = torch.cat([weights[name], share], replay.names.index(block.plate))
    elif name in weights:
        share = weights[name] + share
    weights[name] = share


def _cut(part: Named, block: Block) -> Tensor:
    if block.plate not in part.names:
        return part.tensor
    return part.tensor.narrow(part.names.index(block.plate), block.start, block.length)
