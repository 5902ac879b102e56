"""Steps between slices of the rows: incremental EM, and online EM.

What a slice adds to the statistics is kept by slice, or forgotten step by step, and there is an M-step after every
slice: a pass makes as many of them as there are slices. These passes come first; full E-steps go on from where they
lead, and only these are asked whether a fit has ended.

References: Neal & Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants;
Cappe & Moulines (2009), On-line expectation-maximization algorithm for latent data models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import torch

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...errors import ParameterError, PlanError
from ...m_step.ascent.ascend import Carried
from ...program.data.rows_of import rows_of, taken
from ...program.named import Batch, Named, only
from ...records.frozen import frozen
from ..acceleration.when import never
from ..endings import guard
from ..path import Path
from ..problem import Problem
from ..stopping import aitken, is_small
from .everywhere import check_possible
from .in_common import suited
from .scan import scanned
from .seals import Source
from .stream import Stream, check_streamed

LEFT = 2  # full E-steps that are kept of the passes


@frozen
class Slices:
    """How a fit begins.

    Attributes:
        rows: in slices.
        tol: as of the fit: passes go on while more than that is left to gain.
        max_steps: passes in all, the full E-steps after them included.
        step_size: of online EM, the power of its steps; None for incremental EM.
        tick: told after every pass.
        due: whether an acceleration of full E-steps, which takes fewer, is to go on from a trail of objectives.
    """

    rows: Stream
    tol: float
    max_steps: int
    step_size: float | None = None
    tick: Callable[[int], object] | None = None
    due: Callable[[Sequence[float], float], bool] = never

    def __call__(self, problem: Problem, path: Path) -> Path:
        """Take passes over slices from where a path begins.

        Raises:
            DataError: a row is impossible there.
            ObjectiveError: the free energy fell.
        """
        passes = self.max_steps if self.tol == 0 and self.step_size is None else self.max_steps - LEFT
        if passes < 1 or path.before:
            return path
        problem = replace(problem, expands=False)
        with torch.no_grad():
            if self.step_size is None:
                return self._incremental(problem, path, passes)
            return self._online(problem, path, passes)

    def _incremental(self, problem: Problem, path: Path, passes: int) -> Path:
        """Keep the statistics of every slice, and replace them one by one.

        The free energy `sum_b (log Z_b(theta_b) + <S_b, eta(theta) - eta(theta_b)>) + log prior(theta)` never falls,
        and is at most the objective; `theta_b` is where slice `b` was last summed.
        """
        here, memory = path.here, dict(path.memory)
        kept: list[tuple[Expectation, float]] = [_summed(problem, here, part) for part in self._parts(problem)]
        objective = sum(float(found.log_evidence) for found, _ in kept) + float(problem.log_prior(problem.bind(here)))
        check_possible(problem, only(here), objective)
        trail = [objective]
        here = _maximised(problem, _total(kept), here, memory)
        while len(trail) < passes and not self._settled(trail):
            for k, part in enumerate(self._parts(problem)):
                kept[k] = _summed(problem, here, part)
                here = _maximised(problem, _total(kept), here, memory)
            if not _sound(here):
                return path
            energy = sum(rest for _, rest in kept) + float(problem.engine.q(here, _total(kept)))
            guard(problem, trail[-1], energy, len(trail))
            trail.append(energy)
            self._told()
        return path._replace(here=here, before=tuple(trail), memory=memory)

    def _online(self, problem: Problem, path: Path, passes: int) -> Path:
        """Forget: `S <- (1 - g) S + g N / n_b S_b` with `g = (t + 1)^-step_size`; the last half is averaged (Polyak).

        Nothing is known of the objective on the way: the path has minus infinity for it.
        """
        assert self.step_size is not None
        here, memory, taken = path.here, dict(path.memory), 0
        total: Expectation | None = None
        mean: Expectation | None = None
        passes = passes if self.tol == 0 else 1
        first = passes * self.rows.many // 2
        for _ in range(passes):
            for part in self._parts(problem):
                found = part.expect(suited(problem.bind(here), part))
                found = _scaled(found, self.rows.rows / part.program.plates[part.plate or ""])
                if total is None:
                    check_possible(problem, only(here), float(found.log_evidence))
                g = (taken + 1.0) ** -self.step_size
                total = found if total is None else _scaled(total, 1 - g) + _scaled(found, g)
                taken += 1
                if taken > 1:
                    here = _maximised(problem, total, here, memory)
                if taken > first:
                    g = 1 / (taken - first)
                    mean = total if mean is None else _scaled(mean, 1 - g) + _scaled(total, g)
                if not _sound(here):
                    return path
            self._told()
        assert mean is not None
        here = _maximised(problem, mean, here, {})
        return path._replace(here=here, before=(-torch.inf,) * passes) if _sound(here) else path

    def _settled(self, trail: list[float]) -> bool:
        """Whether next to nothing is left to gain by such passes, or more by others."""
        return self.tol > 0 and (is_small(aitken(trail)[0], trail[-1], self.tol) or self.due(trail, self.tol))

    def _parts(self, problem: Problem) -> Iterator[Engine]:
        return self.rows.parts(problem.engine.full)

    def _told(self) -> None:
        if self.tick is not None:
            self.tick(1)


def _summed(problem: Problem, here: Batch, part: Engine) -> tuple[Expectation, float]:
    """Sum one slice, and say what its free energy has besides `Q`."""
    bound = problem.bind(here)
    found = part.expect(suited(bound, part))
    q = problem.engine.q(here, found) - problem.log_prior(bound)
    return found, float(found.log_evidence - q)


def _total(kept: Sequence[tuple[Expectation, float]]) -> Expectation:
    return reduce(add, (found for found, _ in kept))


def _maximised(problem: Problem, found: Expectation, here: Batch, memory: Carried) -> Batch:
    """Maximise `Q` of statistics that belong to several parameters."""
    return problem.maximise(found.with_prior(problem.log_prior(problem.bind(here))), here, memory)


def _scaled(found: Expectation, by: float) -> Expectation:
    """The statistics of rows each of which counts `by` times as much."""
    return Expectation(
        by * found.log_evidence,
        {name: part.scaled(by) for name, part in found.sums.items()},
        {name: Named(by * part.tensor, part.names) for name, part in found.weights.items()},
        found.plate,
    )


def _sound(here: Batch) -> bool:
    """Whether there was a step."""
    return not any(bool(value.isnan().any()) for value in here.values())


def sliced(problem: Problem, args: tuple[Any, ...], kwargs: Mapping[str, Any], many: int) -> Stream:
    """Cut the rows of a problem into slices, as even as they go.

    Raises:
        ParameterError: there are fewer rows, or an argument cannot be cut.
        PlanError: statistics do not add up over slices.
    """
    engine = problem.engine.full
    check_streamed(engine, problem.plan)
    assert engine.plate is not None
    rows = engine.program.plates[engine.plate]
    if not 1 <= many <= rows:
        raise ParameterError(f"batches: expected a number from 1 to that of the rows, {rows}, got {many}.")
    ends = [rows * k // many for k in range(many + 1)]
    calls = [
        (tuple(_cut(v, rows, at) for v in args), {n: _cut(v, rows, at) for n, v in kwargs.items()})
        for at in map(slice, ends, ends[1:])
    ]
    stream, _ = scanned(Source(calls), engine)
    if stream.times != 1.0:
        raise ParameterError(
            f'batches: expected arguments whose first dimension is the rows of plate "{engine.plate}", {rows} of them, '
            f"got none that can be cut. Cut them yourself: EM(model, batches={many}).fit_stream(batches)."
        )
    return stream


def as_slices(stream: Any, many: int) -> Stream:
    """Take the batches of a stream for slices.

    Raises:
        ParameterError: there are not so many.
        PlanError: slopes and curvatures of a site belong to one point, and statistics of slices to several.
    """
    for step in stream.steps:
        name = next(iter(step.sites))
        raise PlanError(
            f'Site "{name}": expected statistics that are kept by slice, got slopes and curvatures of a link. Leave '
            f"batches= out."
        )
    if stream.many != many:
        raise ParameterError(
            f"batches: expected the number of batches that fit_stream is given, {stream.many}, got {many}. Each of "
            f"them is a slice."
        )
    found: Stream = stream
    return found


def _cut(value: Any, rows: int, at: slice) -> Any:
    def cut(array: Any) -> Any:
        shape = tuple(array.shape)
        if not shape or shape[0] != rows:
            return array
        return taken(array, at)

    return rows_of(value, rows, cut, lambda listed: listed[at])
