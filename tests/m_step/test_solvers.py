"""Solvers of the M-step: what they return depends on no centre and on no other start, and a table finds them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from oracles.engines import distance, laid_out
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from torch import Tensor

from em_pyro.e_step.engine import Engine
from em_pyro.e_step.sums import Sums
from em_pyro.m_step import solvers
from em_pyro.m_step.counts import Counts
from em_pyro.m_step.least_squares.solver import LeastSquares
from em_pyro.m_step.plan import choose
from em_pyro.m_step.pooling import Refused
from em_pyro.m_step.uses import Block
from em_pyro.program.named import Batch, batched, only

CENTRED = (
    "gaussian_mixture",
    "multivariate_mixture",
    "lines_in_the_plane",
    "mixture_of_regressions",
    "shared_parameter",
)
"""Programs with a location, of numbers and of vectors, selected and affine."""


def solved(name: str, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
    """What all solvers of a program make of some statistics."""
    new = dict(batch)
    for solver in laid_out(name).plan.solvers:
        new |= solver.solve(sums, new)
    return new


@pytest.mark.parametrize("name", CENTRED)
def test_no_solver_minds_where_sums_are_centred(name: str) -> None:
    """Sums about any other centre, another one in every cell, have the same maximum."""
    built, generator = laid_out(name), torch.Generator().manual_seed(0)
    batch, sums = batched(built.here), expect(built.compiled, built.here).sums
    moved, count = {}, 0
    for site, here in sums.items():
        if here.around is not None:
            noise = torch.randn(here.around.shape, generator=generator, dtype=torch.float64)
            here, count = here.about(here.around + noise), count + 1
        moved[site] = here
    assert count
    first, second = solved(name, sums, batch), solved(name, moved, batch)
    assert max(distance(second[n], first[n]) for n in first) < IDENTITY
    blind = {site: replace(here, around=sums[site].around) for site, here in moved.items()}  # the fault
    wrong = solved(name, blind, batch)
    assert max(distance(wrong[n], first[n]) for n in first) > 1e-3


@pytest.mark.parametrize("name", [*CENTRED, "poisson_regressions", "gamma_regressions", "positive_families"])
def test_a_start_without_a_step_leaves_the_others_alone(name: str) -> None:
    """Statistics of one start that are not numbers: the other start takes its step as if it were alone."""
    built = laid_out(name)
    sums = expect(built.compiled, built.here).sums
    alone = solved(name, sums, batched(built.here))
    broken = {site: here.changed(lambda part: torch.cat([part, part * torch.nan])) for site, here in sums.items()}
    both = {n: torch.stack([value, value]) for n, value in built.here.items()}
    found = solved(name, broken, both)
    assert max(distance(found[n][:1], alone[n]) for n in alone) < IDENTITY


def test_least_squares_is_one_solver() -> None:
    """Numbers and vectors, divided equations and one system: the same class plans them all."""
    kinds = {name: next(s for s in laid_out(name).plan.solvers if isinstance(s, LeastSquares)) for name in CENTRED}
    assert kinds["gaussian_mixture"].equations is None
    assert kinds["mixture_of_regressions"].equations is not None
    assert {len(solver.sites[0].loc.unit) for solver in kinds.values()} == {0, 1}


class Halved(Counts):
    """Probabilities that take half the step."""

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Go half the way."""
        return {n: (value + batch[n]) / 2 for n, value in super().solve(sums, batch).items()}


class Unwilling:
    """Refuses everything."""

    how: ClassVar[str] = "closed form"
    separable: ClassVar[bool] = True
    absorbs: ClassVar[bool] = False

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Any:
        """Say so."""
        raise Refused(f'"{block.names[0]}" is not to its taste')


def test_a_row_of_the_table_is_a_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another solver of counts is found by its row, and its reason is in the plan if it refuses."""
    built = laid_out("gaussian_mixture")
    sums = expect(built.compiled, built.here).sums
    whole = only(solved("gaussian_mixture", sums, batched(built.here)))["weights"]
    monkeypatch.setattr(solvers, "SOLVERS", {**solvers.SOLVERS, "counts": Halved})
    (solver,) = (s for s in choose(built.compiled, {}, {}).solvers if s.parameters == ("weights",))
    half = solver.solve(sums, batched(built.here))["weights"][0]
    assert distance(2 * half - built.here["weights"], whole) < IDENTITY
    monkeypatch.setattr(solvers, "SOLVERS", {**solvers.SOLVERS, "counts": Unwilling})
    line = choose(built.compiled, {}, {})["weights"]
    assert line.how == "torch"
    assert line.why.startswith('"weights" is not to its taste;')
