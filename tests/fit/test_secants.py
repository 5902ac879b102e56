"""Quasi-Newton directions: on quadratics, and against the update of the paper, matrix by matrix."""

import math

import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY, SOLVERS
from programs.fixed_points import F64, symmetric
from torch import Tensor

from em_pyro.fit.acceleration.secants import Secants

SIZE = 6


def quadratic() -> tuple[Tensor, Tensor]:
    """Return the information of an objective `-x'Ax / 2`, and that in complete data, which is larger."""
    observed = symmetric(torch.logspace(0, 3, SIZE, dtype=F64), seed=3)
    return observed, observed + symmetric(torch.linspace(1, 200, SIZE, dtype=F64), seed=4)


def moves(many: int, seed: int = 5) -> Tensor:
    """Draw moves."""
    return torch.randn(many, SIZE, generator=torch.Generator().manual_seed(seed), dtype=F64)


def taught(many: int) -> tuple[Secants, Tensor, Tensor, Tensor]:
    """Return what so many moves on a quadratic teach; the moves, and both kinds of information."""
    A, C = quadratic()
    secants, made = Secants.none(SIZE), moves(many)
    for move in made:
        secants = secants.after(move, A @ move, torch.linalg.solve(C, A @ move))
    return secants, made, A, C


def dense(made: Tensor, A: Tensor, C: Tensor, correction: Tensor | None = None) -> Tensor:
    """Return `S` of Jamshidian and Jennrich (1997), QN2, so that the direction is `r - S g`, by their update."""
    S = torch.zeros(SIZE, SIZE, dtype=F64) if correction is None else correction
    for move in made:
        slope, step = -A @ move, -torch.linalg.solve(C, A @ move)
        star, bend = -step + S @ slope, float(slope @ move)
        outer = torch.outer(star, move)
        S = S + (1 + float(slope @ star) / bend) * torch.outer(move, move) / bend - (outer + outer.T) / bend
    return S


def test_the_direction_is_that_of_the_paper() -> None:
    """However few or many moves were made."""
    at = moves(1, seed=9)[0]
    for many in range(9):
        secants, made, A, C = taught(many)
        assert len(secants) == many
        slope, step = -A @ at, -torch.linalg.solve(C, A @ at)
        close(secants.direction(slope, step), step - dense(made, A, C) @ slope, SOLVERS)


def test_another_update_is_noticed() -> None:
    """The correction of the paper, a thousandth too large, gives another direction."""
    secants, made, A, C = taught(4)
    at = moves(1, seed=9)[0]
    slope, step = -A @ at, -torch.linalg.solve(C, A @ at)
    wrong = step - 1.001 * dense(made, A, C) @ slope
    assert float((secants.direction(slope, step) - wrong).abs().max()) > 1e-4 * float(wrong.abs().max())


def test_what_was_moved_is_known() -> None:
    """Each move's change of the gradient leads back along the last move itself."""
    secants, made, A, C = taught(5)
    fall = A @ made[-1]
    close(secants.direction(fall, torch.linalg.solve(C, fall)), made[-1], IDENTITY)


def test_nothing_known_is_the_step_of_the_map() -> None:
    """With no moves the direction is EM's own."""
    slope, step = moves(2)
    assert torch.equal(Secants.none(SIZE).direction(slope, step), step)


def test_moves_that_teach_nothing_of_a_maximum_are_not_kept() -> None:
    """Along which the gradient does not fall, or is not a number."""
    move, fall = moves(2)
    fall = fall if float(move @ fall) < 0 else -fall
    assert len(Secants.none(SIZE).after(move, fall, fall)) == 0
    assert len(Secants.none(SIZE).after(move, torch.zeros(SIZE, dtype=F64), fall)) == 0
    assert len(Secants.none(SIZE).after(move, torch.full((SIZE,), math.nan, dtype=F64), fall)) == 0


def test_the_oldest_moves_are_forgotten() -> None:
    """Memory is bounded, more tightly for many coordinates; no matrix of all of them is made."""
    secants = taught(60)[0]
    assert len(secants) == 40
    assert torch.equal(secants.moves, moves(60)[-40:])
    wide = Secants.none(100_000)
    for seed in range(8):
        move = torch.randn(100_000, generator=torch.Generator().manual_seed(seed), dtype=F64)
        wide = wide.after(move, 2 * move, move)
    assert len(wide) == 5


def test_a_face_is_left_out() -> None:
    """Coordinates that are no longer free are in no move and in no direction."""
    secants, _, A, C = taught(4)
    free = torch.arange(SIZE) < SIZE - 2
    inside = secants.within(free)
    assert bool((inside.moves[:, ~free] == 0).all())
    slope = torch.where(free, -A @ torch.ones(SIZE, dtype=F64), 0.0)
    assert bool((inside.direction(slope, torch.where(free, slope, 0.0))[~free] == 0).all())
    assert inside.within(free) is inside


def test_units_of_coordinates_are_their_own() -> None:
    """A move that is remembered is so in any units of its coordinates, and leads to the same place."""
    move, fall, shrink = torch.tensor([[1.0, 2.0, -1.0], [0.5, 3.0, -2.0], [0.2, 1.0, -0.5]], dtype=torch.float64)
    slope, step = torch.tensor([[1.0, 1.0, 0.5], [0.3, 0.4, 0.1]], dtype=torch.float64)
    units = torch.tensor([2.0**100, 1.0, 2.0**-100], dtype=torch.float64)
    drawn = Secants.none(3).after(move, fall, shrink)
    other = Secants.none(3).after(move * units, fall / units, shrink * units)
    assert len(drawn) == len(other) == 1
    assert torch.equal(other.direction(slope / units, step * units) / units, drawn.direction(slope, step))
