"""The E-step: bind the arguments, evaluate the factors, contract them, and collect expected statistics.

Recognised sites are `SiteFactor`s, evaluated without the model; the others are replayed. Either way the weights come
from the same contraction. Rows of the largest plate are taken in chunks that stay in cache, where the program allows
it; the statistics of chunks add up, as those of files and processes do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..program.named import Batch, Named, Params, batched, only
from ..program.program import Program
from ..reading.bound import Bound
from ..reading.design.by_row import ByRow
from ..reading.priors import Prior, log_prior
from ..reading.reading import Recognition
from ..recording.moved import NOTHING, Moved, played
from ..records.frozen import frozen
from .contraction.schedule import Factor
from .expectation import Expectation
from .part import Contracted
from .shares import SOFT, SUMS, Collect, Shares
from .sites.site_factor import SiteFactor
from .sums import Sums
from .units import Unit, worst

if TYPE_CHECKING:
    from ..recording.recorded import Recording
    from .second.states import States


@frozen
class Engine:
    """A program ready to run: units, replayed sites, priors and the schedule of contractions.

    Attributes:
        sites: the compiled sites, by name.
        units: what computes them, and what computes several together.
        factors: of every site, by name.
        joined: all that is contracted: the factors, those of a unit as one.
        replayed: of the factors, what the model itself computes.
        parts: what is contracted together.
        base: log base measures, which no step changes.
        offsets: those that differ between states.
        sizes: of all latents and plates, in the order of tensor dimensions.
        plate: the largest; its rows are taken in chunks, and may be split between files and processes.
        whole: why its rows are not taken in chunks; empty if they are, or need not be.
        alive: entries of latents that reach an observation.
        constants: replayed sites that no parameter enters.
        recording: of the sites that move; without one, the model is run for them.
        unrecorded: why there is none.
        unmerged: the engine of all rows, if this one has equal rows merged.
        elsewhere: makes the engine of the same program on other arguments.
    """

    program: Program
    recognition: Recognition
    sites: Mapping[str, SiteFactor]
    units: tuple[Unit, ...]
    factors: Mapping[str, Factor]
    joined: Mapping[str, Factor]
    replayed: Mapping[str, Factor]
    priors: Mapping[str, Prior]
    parts: tuple[Contracted, ...]
    base: float
    offsets: Mapping[str, Named]
    sizes: Mapping[str, int]
    plate: str | None
    whole: str
    alive: Mapping[str, Named] = field(default_factory=dict, repr=False)
    constants: Mapping[str, Named] = field(default_factory=dict, repr=False)
    recording: Recording | None = None
    unrecorded: str = ""
    unmerged: Engine | None = field(default=None, repr=False)
    elsewhere: Callable[[Program], Engine] | None = field(default=None, repr=False)

    # ---- the E-step ----

    def bind(self, batch: Batch) -> Bound:
        """Bind the parameters: no data is looked at.

        The last two are kept: a step looks at what it leads to, and the next starts from there.
        """
        for bound in self._last:
            if bound.batch is batch:
                return bound
        bound = Bound(batch, self.recognition.bank)
        if any(value.requires_grad for value in batch.values()):
            return bound
        if len(self._last) > 1:
            del self._last[next(iter(self._last))]
        self._last[bound] = None
        return bound

    @cached_property
    def _last(self) -> dict[Bound, Moved | None]:
        """What was bound last, and what the model itself has said of it, if it was asked."""
        return {}

    @torch.no_grad()
    def expect(
        self, bound: Bound, about: Bound | None = None, collect: Collect = SUMS, shares: Shares = SOFT
    ) -> Expectation:
        """Run one E-step: return `log Z` and the expected statistics `S_s = <W_s, T_s(x)>` of every site `s`.

        Args:
            bound: the parameters, float64.
            about: around whose locations statistics are wanted; None is those of `bound`.
            collect: what is wanted.
            shares: how rows are shared out among the states.
        """
        if shares.given is not None:
            return self._given(shares.given, shares.evidence, bound)
        replays = self.replays(self.moved(bound))
        evidence: list[Tensor] = []
        sums, weights = dict[str, Sums](), dict[str, Named]()
        for part in self.parts:
            natural = part.natural(bound, about, replays)
            found = part.expect(natural, replays, self.offsets, bound.starts, collect)
            evidence.append(found.log_evidence)
            if collect.sums:
                sums |= part.finish(found.sums, natural)
            weights.update(found.weights)
        total = sum(evidence[1:], evidence[0]) if evidence else torch.zeros(bound.starts, dtype=torch.float64)
        second = None
        if collect.along is not None:
            from .second.second import second_order  # no step of a fit asks for them

            second = second_order(self.states, bound, collect.along, self.bind, replays, self.offsets)
        return Expectation(total + self.base, sums, weights, self.plate, second=second)

    def _given(self, shares: Mapping[str, Tensor], evidence: float, bound: Bound) -> Expectation:
        """Return the statistics of all rows under given shares."""
        sums: dict[str, Sums] = {}
        weights = {n: Named(shares[n].squeeze(0), factor.names) for n, factor in self.replayed.items()}
        for unit in self.units:
            found = unit.given(shares)
            for name in unit.absorbed:
                if name in found:
                    weights[name] = Named(found.pop(name).squeeze(0), self.absorbed[name])
            sums |= unit.finish(found, None) | unit.given_at(shares, bound)
        return Expectation(torch.tensor([evidence], dtype=torch.float64), sums, weights, self.plate)

    def log_prior(self, bound: Bound) -> Tensor:
        """Return the log-density of the sites with a prior, `(starts)`: once, whatever the rows are split into."""
        known = log_prior(self.priors, bound.batch)
        return known + self.moved(bound).prior if self.open_priors else known

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short, shape `(2, starts)`: above one they do; None where they never do.

        First, whether the sums at `bound` have too few for the arguments `near`; second, whether the fastest forms have
        too few `near`. It is read off what all who hold rows of the data share.
        """
        return worst(part.digits(bound, near) for part in self.parts)

    def on(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Engine:
        """Return the same program, read in the same way, on other arguments; no initialiser is run.

        Raises:
            ModelError: the model makes other statements for these arguments.
            PlanError: its sites are read in another way there.
        """
        return self.read_on(self.program.on(args, kwargs or {}))

    def read_on(self, there: Program) -> Engine:
        """Return what `on` does where the program has been set up on other arguments."""
        assert self.elsewhere is not None
        return self.elsewhere(there)

    @cached_property
    def by_row(self) -> ByRow:
        """What differs by row in the arguments, as columns of what the model was called with."""
        return ByRow(self.recognition.readings, self.program, self.plate)

    # ---- Q ----

    def q(self, batch: Batch, found: Expectation) -> Tensor:
        """Return `Q = sum_s <W_s, L_s> + log prior`, `(starts)`, up to what no parameter enters; differentiable."""
        bound = Bound(batch, self.recognition.bank) if torch.is_grad_enabled() else self.bind(batch)
        return self._q(bound, found, self.leaders, self.priors, self.moved(bound))

    def q_of(self, free: Sequence[str], found: Expectation, params: Params) -> Callable[[Params], Tensor]:
        """Return the part of `Q` that some of `free` enter, the other parameters fixed where they are: a number."""
        names = set(free)
        leaders = [n for n, factor in self.leaders.items() if names & factor.parameters]
        priors = {n: prior for n, prior in self.priors.items() if n in names}
        recording = None if self.recording is None else self.recording.at(params, free)

        def q(values: Params) -> Tensor:
            bound = Bound(batched(values), self.recognition.bank)
            moved = self.moved(bound) if recording is None else recording(values)
            return self._q(bound, found, leaders, priors, moved).squeeze(0)

        return q

    def _q(
        self, bound: Bound, found: Expectation, leaders: Collection[str], priors: Mapping[str, Prior], moved: Moved
    ) -> Tensor:
        """Add up `<W_s, L_s>` of some sites, log-densities of priors and what was `moved`."""
        weights = {name: part.tensor for name, part in found.weights.items()}
        total = log_prior(priors, bound.batch) + moved.weighted(weights)
        sums = {name: found.sums[name] for name in leaders if name in found.sums}
        return sum((unit.inner(bound, sums) for unit in self.units), total)

    @torch.no_grad()
    def magnitude(self, found: Expectation, batch: Batch) -> Tensor:
        """Sum the absolute terms of `Q`, shape `(starts)`: what its rounding is relative to."""
        bound = self.bind(batch)
        terms = (self.leaders[name].inner(bound, part).abs().sum(-1) for name, part in found.sums.items())
        return sum(terms, torch.zeros(bound.starts, dtype=torch.float64))

    # ---- what the model itself computes ----

    def moved(self, bound: Bound) -> Moved:
        """Run what is not compiled and some parameter enters: factors of sites, and priors with parameters."""
        if not (self.moving or self.open_priors):
            return NOTHING
        if not torch.is_grad_enabled() and (known := self._last.get(bound)) is not None:
            return known
        run = self.recording or partial(played, self.program, self.moving, self.open_priors)
        found = run(only(bound.batch))
        if bound in self._last and not torch.is_grad_enabled():
            self._last[bound] = found
        return found

    def replays(self, moved: Moved) -> dict[str, Named]:
        """Return the factors of all sites that are not compiled; those that no parameter enters were found at first."""
        return {**self.constants, **moved.factors}

    @cached_property
    def absorbed(self) -> dict[str, tuple[str, ...]]:
        """Replayed sites inside a unit, with their dimensions: they have weights, and no factor of their own."""
        return {name: unit.dimensions(name) for unit in self.units for name in unit.absorbed}

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """Replayed sites, and parts of sites, that some parameter enters."""
        return tuple(name for name in (*self.replayed, *self.absorbed) if name not in self.constants)

    @cached_property
    def open_priors(self) -> tuple[str, ...]:
        """Priors whose arguments are parameters themselves."""
        return tuple(name for name, prior in self.priors.items() if prior.fn is None)

    @cached_property
    def written(self) -> tuple[str, ...]:
        """Sites that parameters enter in a way that only the model tells: replayed ones, and those of tables."""
        return tuple(dict.fromkeys((*self.moving, *self.recognition.tabled)))

    @property
    def open(self) -> bool:
        """Whether parameters enter in a way that only the model tells: what takes starts one by one."""
        return bool(self.written or self.open_priors)

    @property
    def runs_model(self) -> bool:
        """Whether the model is run in every step."""
        return self.recording is None and bool(self.moving or self.open_priors)

    # ---- what is in it ----

    @cached_property
    def states(self) -> tuple[States, ...]:
        """Rows with the joint states of their latents, where these are few and rows are independent.

        Raises:
            PlanError: they are not.
        """
        from .second.states import states_of  # no step of a fit asks for them

        owners = {name: frozenset(latent.plates) for name, latent in self.program.latents.items()}
        return states_of(self.parts, self.joined, owners, self.sizes, self.constants)

    @property
    def full(self) -> Engine:
        """The engine of all rows."""
        return self.unmerged or self

    @cached_property
    def leaders(self) -> dict[str, SiteFactor]:
        """One site for each that is the same function: the statistics carry its name."""
        return {factor.name: factor for unit in self.units for factor in unit.factors}

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """All sites for which one of `leaders` stands."""
        return {name: sites for unit in self.units for name, sites in unit.stands_for.items()}

    @cached_property
    def inner(self) -> dict[str, Unit]:
        """Units that sum out states of their own, by the site that these belong to."""
        return {site: unit for unit in self.units for site in unit.latents}
