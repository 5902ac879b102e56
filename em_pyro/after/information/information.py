"""From a fit to its information: which matrix, by which way, and what it leaves without a standard error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...errors import ParameterError
from ...fit.problem import Problem
from ...fit.rows.held import AT_HAND
from ...program.named import Params
from ..dimension import dimension
from .louis import most_rows
from .oakes import Top, top
from .record import Information, Refused
from .scores import Outer, outer, rows_of

KINDS = ("observed", "opg", "robust", "complete")
WEIGHTS = ("frequency", "probability")
SAMPLED = "weights of rows are taken as sampling weights"


def information(
    problem: Problem,
    params: Params,
    kind: str = "observed",
    plate: str | None = None,
    weights: str = "frequency",
) -> Information:
    """Return the information about fitted values of one kind.

    Args:
        problem: the program and its data.
        params: the fitted values.
        kind: "observed", minus the second derivative of the objective; "opg", the sum of the outer products of the
            rows' scores; "robust", the sandwich of both; "complete", as if the latents had been seen.
        plate: whose rows are independent, for "opg" and "robust": the clusters. By default that with most of them.
        weights: what the weights of rows are: "frequency", how often each is there; "probability", the inverse of the
            probability with which it was drawn.

    Raises:
        ParameterError: no such kind, plate or weights, kinds that do not go together, or rows that are not independent.
        PlanError: the program cannot be differentiated twice.
    """
    _check(problem, kind, plate, weights)
    found = top(problem, params)
    here = found.peak
    refused = [
        Refused(here.flat, "not identified: no standard error"),
        Refused(here.rising, "no maximum: no standard error"),
        Refused(here.kinks, "no second derivative: no standard error"),
        Refused(here.off, "runs off: no standard error"),
    ]
    notes, inner = found.told(), torch.diag(1 / here.curvatures)
    if kind == "complete":
        inner = torch.eye(here.rank, dtype=torch.float64)
    if kind in ("opg", "robust"):
        inner, lost, said = _of_rows(found, kind, plate, sampled=weights == "probability")
        refused.append(Refused(lost, "too few rows: no standard error"))
        notes = (*notes, *said)
    across = here.basis @ here.curved
    fixed: dict[str, dict[tuple[int, ...], str]] = {}
    for (name, at), why in found.edges.items():
        fixed.setdefault(name, {})[at] = why
    return Information(
        kind=kind,
        params=found.params,
        dimension=dimension(problem),
        rank=here.rank,
        directions=found.directions(),
        rate=max(1 - float(here.curvatures[0]), 0.0) if here.rank else 0.0,
        missing=1 - here.values,
        notes=notes,
        constraints={name: problem.program.parameters[name].constraint for name in problem.plan.free},
        slopes=found.slopes(),
        spread=across @ inner @ across.mT,
        unit=here.unit,
        refused=tuple(one for one in refused if one.directions.shape[1]),
        fixed=fixed,
    )


def _check(problem: Problem, kind: str, plate: str | None, weights: str) -> None:
    """Refuse what cannot be had together."""
    if kind not in KINDS:
        raise ParameterError(f"kind: expected one of {list(KINDS)}, got {kind!r}.")
    if weights not in WEIGHTS:
        raise ParameterError(f"weights: expected one of {list(WEIGHTS)}, got {weights!r}.")
    if weights == "probability" and kind != "robust":
        raise ParameterError(
            f'weights: expected kind="robust" for sampling weights, got kind={kind!r}: the likelihood counts a weight '
            f'as so many rows, which were not seen. Ask for information("robust", weights="probability").'
        )
    if weights == "probability" and not any(_scaled(problem)):
        raise ParameterError(
            'weights: expected weights of rows for weights="probability", got none. Put the plate into '
            "poutine.scale(scale=weights), with a weight for every row."
        )
    if plate is not None and kind not in ("opg", "robust"):
        raise ParameterError(f'plate: expected kind="opg" or "robust", which know of rows, got kind={kind!r}.')
    if kind == "opg" and problem.engine.priors:
        raise ParameterError(
            'information: expected a likelihood without priors for kind="opg", got priors of '
            f'{sorted(problem.engine.priors)}, of which no row knows. Ask for kind="observed" or "robust".'
        )


def _scaled(problem: Problem) -> Iterator[bool]:
    """Yield for every site whether a tensor scales it, one weight for all rows aside."""
    for site in problem.engine.full.recognition.runs[0].values():
        yield isinstance(site.scale, Tensor) and site.scale.numel() > 1


def _of_rows(found: Top, kind: str, plate: str | None, *, sampled: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The covariance in coordinates of `here.curved`; directions `(D, m)` of which rows say nothing; and what to say.

    References: Berndt, Hall, Hall & Hausman (1974); White (1982); Binder (1983) for rows that were drawn with unequal
    probabilities.
    """
    here = found.peak
    across = here.basis @ here.curved
    products, many = _squares(found, plate, sampled=sampled)
    if kind == "robust":
        bread = torch.diag(1 / here.curvatures)
        few = f"{many} independent rows for {here.rank} directions: too few to tell how they vary"
        said = [SAMPLED] * sampled + [few] * (many <= here.rank)
        return bread @ products @ bread, across[:, :0], tuple(said)
    values, vectors = torch.linalg.eigh(products)
    seen = values >= here.least
    return vectors[:, seen] @ torch.diag(1 / values[seen]) @ vectors[:, seen].mT, across @ vectors[:, ~seen], ()


def _squares(found: Top, plate: str | None, *, sampled: bool) -> tuple[Tensor, int]:
    """The sum of outer products of scores, in coordinates of `curved`, and of how many rows.

    A row that was `sampled` with weight `w` is one row, with the score `w s`.

    The pass over the rows has it already where these are a mixture, there is no prior to move their mean, and there are
    more of them than directions; else it is found by differences of the evidence of every row.
    """
    here = found.peak
    problem = here.ground.problem
    many = most_rows(problem)
    if found.squares is not None and plate is None and not sampled and not problem.engine.priors and many > here.rank:
        return here.curved.mT @ found.squares @ here.curved, many
    parts = problem.rows.parts(problem.engine)
    summed = reduce(add, (_of_part(found, engine, plate, sampled=sampled) for engine in parts))
    return summed.products, summed.rows


def _of_part(found: Top, engine: Engine, plate: str | None, *, sampled: bool) -> Outer:
    """Sum over the rows of one engine: all rows, or a batch of them, which may be one row."""
    here = found.peak
    ground, least = here.ground, 2
    if not ground.problem.rows.whole:
        plate, least = _split(engine, plate), 1
        ground = replace(ground, problem=replace(ground.problem, engine=engine, rows=AT_HAND))
    rows = rows_of(ground, here.basis, plate, least)
    counts = (rows.counts > 0).to(rows.counts) if sampled else rows.counts
    return outer(rows.scores(ground, here.basis @ here.curved), counts)


def _split(engine: Engine, plate: str | None) -> str | None:
    """Return the plate whose rows are read in batches; rows of others are not apart from one batch to the next."""
    if plate not in (None, engine.plate):
        raise ParameterError(
            f'plate: expected "{engine.plate}", whose rows are read in batches, got "{plate}". Fit all rows at once.'
        )
    return engine.plate
