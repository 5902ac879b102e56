"""From a fit to its information: which matrix, by which way, and what it leaves without a standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ParameterError
from ...fit.problem import Problem
from ...fit.verdict.around import named
from ...fit.verdict.peak import FLAT, Peak
from ...program.named import Params
from ..dimension import dimension
from .oakes import Top, top
from .record import Direction, Information, Refused
from .scores import outer, rows_of

KINDS = ("observed", "opg", "robust", "complete")
BELOW = 1e-6  # nats, relative to 1 + |objective|: how far below the top a fit may end without a note
ROUGH = 1e-4  # asymmetry of second derivatives above which digits are said to be few


@dataclass(frozen=True)
class Certificate:
    """How good a maximum is. Print it.

    Attributes:
        decrement: nats still to gain from the fitted values, by Newton's method.
        smallest: the smallest curvature, in units of the information in complete data: zero where the objective is
            flat along some direction, negative at a saddle. EM converges at the rate of one less it.
        rank: number of directions that the data determine.
        dimension: number of free parameters at an interior point.
        directions: those that are flat, by name.
        notes: what is at a boundary, or runs to infinity.
    """

    decrement: float
    smallest: float
    rank: int
    dimension: int
    directions: tuple[Direction, ...]
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """The rate at which plain EM converges there."""
        return max(1 - self.smallest, 0.0)

    def __str__(self) -> str:
        """Say it in lines."""
        flat = f"flat along {len(self.directions)}: {'; '.join(map(str, self.directions))}" if self.directions else ""
        lines = [
            f"{self.decrement:.2g} nats still to gain",
            f"smallest curvature {self.smallest:.4g} of that in complete data, rate of EM {round(self.rate, 8):.4g}",
            f"{self.rank} of {self.dimension} directions determined",
            *([flat] if flat else []),
        ]
        return "\n".join([*lines, *self.notes])


def certificate(problem: Problem, params: Params) -> Certificate:
    """Say how good a maximum fitted values are.

    Raises:
        PlanError: the program cannot be differentiated twice.
    """
    found = top(problem, params)
    here = found.peak
    return Certificate(
        found.decrement, here.smallest, here.rank, dimension(problem), directions_of(here), _notes(found)
    )


def information(problem: Problem, params: Params, kind: str = "observed", plate: str | None = None) -> Information:
    """Return the information about fitted values of one kind.

    Args:
        problem: the program and its data.
        params: the fitted values.
        kind: "observed", minus the second derivative of the objective; "opg", the sum of the outer products of the
            rows' scores; "robust", the sandwich of both; "complete", as if the latents had been seen.
        plate: whose rows are independent, for "opg" and "robust": the clusters. By default that with most of them.

    Raises:
        ParameterError: no such kind or plate, or rows that are not independent.
        PlanError: the program cannot be differentiated twice.
    """
    if kind not in KINDS:
        raise ParameterError(f"kind: expected one of {list(KINDS)}, got {kind!r}.")
    if plate is not None and kind not in ("opg", "robust"):
        raise ParameterError(f'plate: expected kind="opg" or "robust", which know of rows, got kind={kind!r}.')
    if kind == "opg" and problem.engine.priors:
        raise ParameterError(
            'information: expected a likelihood without priors for kind="opg", got priors of '
            f'{sorted(problem.engine.priors)}, of which no row knows. Ask for kind="observed" or "robust".'
        )
    found = top(problem, params)
    here = found.peak
    curved = here.curved
    refused = [
        Refused(here.flat, "not identified: no standard error"),
        Refused(here.kinks, "no second derivative: no standard error"),
        Refused(here.off, "runs off: no standard error"),
    ]
    notes = _notes(found)
    if kind in ("opg", "robust"):
        rows = rows_of(problem, here.ground.around.params, plate)
        products = curved.mT @ outer(rows.scores(here.ground, here.basis), rows.counts) @ curved
        inner, lost = _of_rows(here, products, kind)
        refused += [Refused(lost, "fewer rows than directions: no standard error")]
    else:
        inner = torch.diag(1 / here.values[here.values >= FLAT]) if kind == "observed" else torch.eye(here.rank)
    across = here.basis @ curved
    fixed: dict[str, dict[tuple[int, ...], str]] = {}
    for (name, at), why in found.edges.items():
        fixed.setdefault(name, {})[at] = why
    values = here.values[here.values >= FLAT]
    return Information(
        kind=kind,
        params=here.ground.around.params,
        dimension=dimension(problem),
        rank=here.rank,
        directions=directions_of(here),
        rate=max(1 - float(values[0]), 0.0) if len(values) else 0.0,
        missing=1 - here.values,
        notes=notes,
        constraints={name: problem.program.parameters[name].constraint for name in problem.plan.free},
        slopes=found.slopes(),
        spread=across @ inner.double() @ across.mT,
        unit=here.unit,
        refused=tuple(one for one in refused if one.directions.shape[1]),
        fixed=fixed,
    )


def _of_rows(here: Peak, products: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The covariance in coordinates of `here.curved`, and directions `(D, m)` of which the rows say nothing."""
    across = here.basis @ here.curved
    if kind == "robust":
        bread = torch.diag(1 / here.values[here.values >= FLAT])
        return bread @ products @ bread, across[:, :0]
    values, vectors = torch.linalg.eigh(products)
    seen = values >= FLAT
    return vectors[:, seen] @ torch.diag(1 / values[seen]) @ vectors[:, seen].mT, across @ vectors[:, ~seen]


def directions_of(here: Peak) -> tuple[Direction, ...]:
    """Name the flat directions, the furthest coordinate moved by one standard error given complete data."""
    around, found = here.ground.around, []
    for flat in here.flat.mT:
        scaled = flat / (flat.abs() / here.unit).max()
        little = 1e-6
        ends = around.batch(torch.stack([little * scaled, -little * scaled]))
        moves = {name: (ends[name][0] - ends[name][1]) / (2 * little) for name in around.names}
        found.append(Direction(moves, named(here.moving(flat.unsqueeze(-1)))))
    return tuple(found)


def _notes(found: Top) -> tuple[str, ...]:
    """What is to be said of the whole."""
    here, notes = found.peak, list(found.notes)
    level = float(here.ground.heights(torch.zeros(1, here.ground.around.size, dtype=torch.float64)))
    if found.decrement > BELOW * (1 + abs(level)):
        notes.append(f"the fit ended {found.decrement:.3g} nats below the maximum, which this is taken at")
    if here.decrement > BELOW * (1 + abs(level)):
        notes.append(f"no maximum: {here.decrement:.3g} nats are still to gain from where Newton's method came to")
    if len(here.values) and float(here.values[0]) < -FLAT:
        worst = here.basis @ here.vectors[:, :1]
        notes.append(f"no maximum: the objective rises along {named(here.moving(worst))}")
    if here.flat.shape[1]:
        ways = "one direction" if here.flat.shape[1] == 1 else f"{here.flat.shape[1]} directions"
        notes.append(f"not identified: the objective is flat along {ways}, of {named(here.moving(here.flat))}")
    if here.error > ROUGH:
        notes.append(f"second derivatives are known to {here.error:.1g} of the information in complete data only")
    return tuple(notes)
