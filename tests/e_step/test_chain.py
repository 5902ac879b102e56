"""The recursions of a chain are those of log space: compiled or not, in blocks or not, where scaling loses too much."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles.tolerances import IDENTITY
from torch import Tensor

from em_pyro.e_step.forward_backward import chain, compiled, recursions, scan
from em_pyro.errors import ParameterError, PlanError

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
METHODS = ("torch", "interpreted", pytest.param("numba", marks=needs_numba))
SHAPES = {
    "one_step": (1, 3, 2),
    "two_steps": (2, 1, 3),
    "few_rows": (30, 3, 4),
    "blocks": (200, 2, 3),
    "uneven_blocks": (scan.LONG + 14, 1, 2),
    "rows_side_by_side": (12, recursions.BLOCK + 6, 3),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recursion; "interpreted" is the loops that numba compiles, as Python runs them."""
    if request.param == "interpreted":
        quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")
        pairs = [(quiet(forwards), quiet(backwards)) for forwards, backwards in recursions.BY_ROWS]
        monkeypatch.setattr(compiled, "functions", lambda rows: pairs[rows >= recursions.FEW])
    return "torch" if request.param == "torch" else "numba"


def drawn(steps: int, rows: int, states: int, *lead: int, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-laws of a first state, log-transitions, log-likelihoods."""
    generator = torch.Generator().manual_seed(steps + rows)

    def normal(*shape: int) -> Tensor:
        return torch.randn((*lead, *shape), generator=generator)

    return (
        normal(states, 1).log_softmax(-2),
        normal(states, states).log_softmax(-1),
        spread * normal(states, steps, rows),
    )


def assert_same(found: chain.Smoothed, first: Tensor, moves: Tensor, seen: Tensor) -> None:
    """Everything is that of log space; `moves` are one matrix, or one a step and row."""
    states, steps, rows = seen.shape
    every = moves.expand((steps - 1, rows, states, states)) if steps > 1 else moves.new_zeros((0, rows, states, states))
    log_z, posterior, pairs, filtered = chain.log_space(first.expand(states, rows).mT, every, seen.movedim(0, -1))
    assert float(((found.log_z - log_z) / (1 + log_z.abs())).abs().max()) < IDENTITY
    assert float((found.states - posterior.movedim(-1, 0)).abs().max()) < IDENTITY
    assert float((found.states.sum(-3) - 1).abs().max()) < IDENTITY
    normal = found.log_filtered().log_softmax(-3) - filtered.movedim(-1, 0).log_softmax(-3)
    assert float(normal.nan_to_num(0.0).abs().max()) < 1e-8
    if steps > 1:
        assert float((found.pairs_each() - pairs).abs().max()) < IDENTITY
    if steps > 1 and found.shared:
        weight = torch.linspace(0, 2, rows).expand(steps - 1, rows)
        assert float((found.pairs_sum() - pairs.sum((0, 1))).abs().max()) < IDENTITY * steps * rows
        weighed = (pairs * weight[..., None, None]).sum((0, 1))
        assert float((found.pairs_sum(weight) - weighed).abs().max()) < IDENTITY * steps * rows


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_recursions_are_log_space(method: str, shape: tuple[int, int, int]) -> None:
    """Evidence, states, pairs and filter; with a state shifted by 1 % of a nat they are not."""
    first, moves, seen = drawn(*shape)
    found = chain.smooth(first, moves, seen.clone, method)
    assert found.redone is None
    assert_same(found, first, moves, seen)
    wrong = seen.clone()
    wrong[0] += 0.01
    for other in (chain.smooth(first, moves, wrong.clone, method), chain.smooth(first, moves.mT, seen.clone, method)):
        if shape[0] > 1 or other.log_z[0] != found.log_z[0]:
            with pytest.raises(AssertionError):
                assert_same(other, first, moves, seen)


@pytest.mark.parametrize("steps", [20, scan.LONG + 14])
@pytest.mark.parametrize("rows", [1, 3])
def test_matrices_that_differ_by_step_and_row(rows: int, steps: int) -> None:
    """One transition matrix for each step, shared by the rows or not; in another order they are others."""
    first, _, seen = drawn(steps, 3, 3)
    moves = torch.randn((steps - 1, rows, 3, 3), generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    assert_same(chain.smooth(first, moves, seen.clone), first, moves, seen)
    with pytest.raises(AssertionError):
        assert_same(chain.smooth(first, moves.flip(0), seen.clone), first, moves, seen)


def test_starts_have_matrices_by_step_of_their_own() -> None:
    """In blocks, as one by one."""
    first, _, seen = drawn(scan.LONG + 14, 2, 3, 2)
    moves = torch.randn((2, scan.LONG + 13, 1, 3, 3), generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    together = chain.smooth(first, moves, seen.clone)
    for k in range(2):
        assert_same(chain.smooth(first[k], moves[k], seen[k].clone), first[k], moves[k], seen[k])
        alone = chain.smooth(first[k], moves[k], seen[k].clone)
        assert float((together.states[k] - alone.states).abs().max()) < IDENTITY


@pytest.mark.parametrize("shape", [(30, 2, 3), (200, 1, 2)])
def test_a_batch_of_starts_is_one_by_one(method: str, shape: tuple[int, int, int]) -> None:
    """A dimension of starts in front of everything changes nothing."""
    first, moves, seen = drawn(*shape, 3)
    weight = torch.rand((3, shape[0] - 1, shape[1]), generator=torch.Generator().manual_seed(0))
    together = chain.smooth(first, moves, seen.clone, method)
    for k in range(3):
        alone = chain.smooth(first[k], moves[k], seen[k].clone, method)
        assert float((together.log_z[k] - alone.log_z).abs().max()) < IDENTITY * float(alone.log_z.abs().max())
        assert float((together.states[k] - alone.states).abs().max()) < IDENTITY
        assert float((together.pairs_sum(weight)[k] - alone.pairs_sum(weight[k])).abs().max()) < IDENTITY * shape[0]


@pytest.mark.parametrize("steps", [9, 300])
def test_where_scaling_loses_too_much(method: str, steps: int) -> None:
    """States that differ by thousands of nats, between structural zeros: those rows are done again, the others not."""
    moves = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]).log()
    first = torch.tensor([[1.0], [0.0], [0.0]]).log()
    _, _, seen = drawn(steps, 4, 3, spread=2000.0)
    seen[:, :, 2] /= 1000
    found = chain.smooth(first, moves, seen.clone, method)
    assert found.redone is not None
    assert found.redone.where[0].tolist() == [0, 1, 3]
    assert_same(found, first, moves, seen)


def test_what_is_lost_in_silence(method: str) -> None:
    """A state that falls behind by 800 nats and is right after all: no norm vanishes, the messages show it."""
    moves = torch.eye(2).log()
    first = torch.zeros((2, 1)) - torch.log(torch.tensor(2.0))
    seen = torch.zeros((2, 4, 1))
    seen[1, 0] = -800.0
    seen[0, 1] = seen[0, 2] = -600.0
    found = chain.smooth(first, moves, seen.clone, method)
    assert_same(found, first, moves, seen)
    assert float(found.states[1].min()) > 0.999


def test_a_batch_of_starts_of_which_one_is_done_again(method: str) -> None:
    """Log space knows which start a row belongs to."""
    first, moves, seen = drawn(20, 2, 2, 3)
    moves[1] = torch.eye(2).log()
    seen[1, 0, :10, 1], seen[1, 0, 10:, 1] = -900.0, 900.0
    together = chain.smooth(first, moves, seen.clone, method)
    assert together.redone is not None
    assert [part.tolist() for part in together.redone.where] == [[1], [1]]
    for k in range(3):
        alone = chain.smooth(first[k], moves[k], seen[k].clone, method)
        assert float((together.log_z[k] - alone.log_z).abs().max()) < IDENTITY * float(alone.log_z.abs().max())
        assert float((together.states[k] - alone.states).abs().max()) < IDENTITY
        assert float((together.pairs_sum()[k] - alone.pairs_sum()).abs().max()) < IDENTITY * 20
        assert float((together.pairs_each()[k] - alone.pairs_each()).abs().max()) < IDENTITY


def test_an_impossible_row_has_no_weight(method: str) -> None:
    """No path explains it; the other row is untouched."""
    first, moves, seen = drawn(12, 2, 2)
    seen[:, 5, 0] = -torch.inf
    found = chain.smooth(first, moves, seen.clone, method)
    assert found.log_z[0] == -torch.inf
    assert float(found.states[..., 0].abs().max()) == 0.0
    assert float(found.pairs_each()[:, 0].abs().max()) == 0.0
    assert_same(chain.smooth(first, moves, seen[..., 1:].clone, method), first, moves, seen[..., 1:])


@needs_numba
def test_the_choice() -> None:
    """Large chains on the processor are compiled, unless the user asks for the scan."""
    cpu = torch.device("cpu")
    assert compiled.choose(compiled.LARGE, cpu)[0] == "numba"
    assert compiled.choose(compiled.LARGE - 1, cpu) == ("torch", "the chain is short")
    assert compiled.choose(compiled.LARGE, torch.device("meta"))[0] == "torch"
    with compiled.recursion("torch"):
        assert compiled.choose(compiled.LARGE, cpu) == ("torch", "you asked for it")
    with compiled.recursion("numba"):
        assert compiled.choose(1, cpu)[0] == "numba"
    assert compiled.choose(1, cpu)[0] == "torch"


def test_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an installation that is read-only the functions are compiled anew in every process."""
    asked: list[dict[str, object]] = []

    def njit(**options: object) -> object:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(njit=njit))
    compiled._compiled.cache_clear()
    try:
        assert (compiled.functions(1), compiled.functions(100)) == recursions.BY_ROWS
        assert [bool(options.get("cache")) for options in asked] == [True, False] * 4
    finally:
        compiled._compiled.cache_clear()


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan runs, and says why; who asks for numba is told what to install."""
    monkeypatch.setattr(compiled, "_compiled", lambda: "numba is not installed")
    assert compiled.choose(compiled.LARGE, torch.device("cpu")) == ("torch", "numba is not installed")
    with compiled.recursion("numba"), pytest.raises(PlanError, match=r"pip install em-pyro\[fast\]"):
        compiled.choose(1, torch.device("cpu"))
    with pytest.raises(ParameterError, match="jax"), compiled.recursion("jax"):
        pass
