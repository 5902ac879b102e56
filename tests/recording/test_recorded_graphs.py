"""What a recorded graph holds: what is needed, once, and what is written in place."""

from collections.abc import Mapping

import pytest
import torch
from oracles.engines import distance
from oracles.recordings import EXACT
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor

import em_pyro.recording.record
from em_pyro.recording.record import Untraceable, record
from em_pyro.recording.recorded import close
from em_pyro.recording.trim import constants


def test_data_are_not_copied() -> None:
    """A graph refers to the user's own tensor."""
    data = torch.arange(5.0)
    graph = record(lambda v: {"out": v["a"] * data[1:] + data[0]}, {"a": tensor(2.0)}, {})
    held = [t for t in constants(graph.steps) if t.untyped_storage().data_ptr() == data.untyped_storage().data_ptr()]
    assert len(held) == len(constants(graph.steps)) == 2
    assert torch.equal(graph({"a": tensor(3.0)})["out"], 3 * data[1:])


def test_only_what_is_needed_is_kept_and_once() -> None:
    """Operations that lead nowhere are dropped, and those that repeat are merged."""

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values["a"].exp().sum()
        return {f"out{k}": values["a"].log() * tensor([1.0, 2.0]) + k for k in range(3)}

    graph = record(f, {"a": tensor([1.0, 3.0])}, {})
    names = sorted(str(step.op) for step in graph.steps)
    assert names == ["aten.add.Tensor"] * 3 + ["aten.log.default", "aten.mul.Tensor"]
    found = graph({"a": tensor([2.0, 5.0])})
    assert all(torch.equal(found[f"out{k}"], tensor([2.0, 5.0]).log() * tensor([1.0, 2.0]) + k) for k in range(3))


def in_place(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fill a matrix entry by entry, look at it through views taken before and after, and add to what was computed."""
    matrix = torch.full((2, 2), 7.0)
    row = matrix[1]
    matrix[0, 0] = values["a"]
    matrix[0, 1] = 1 - values["a"]
    row[0] = values["b"]
    before = matrix * 2
    matrix[1, 1] = 0.5
    total = values["a"] * 3
    total += values["b"]
    return {"before": before, "after": matrix.log().sum(0), "row": row.exp(), "total": total}


def test_writing_in_place_is_repeated() -> None:
    """A matrix that the model fills is filled anew in every evaluation, and differentiated."""
    graph = record(in_place, {"a": tensor(0.3), "b": tensor(2.0)}, {})
    for a, b in ((0.3, 2.0), (0.8, 0.1), (0.3, 2.0)):
        values = {"a": tensor(a, requires_grad=True), "b": tensor(b, requires_grad=True)}
        mine, theirs = graph(values), in_place(values)
        assert {name: distance(mine[name], theirs[name]) for name in theirs} == dict.fromkeys(theirs, 0.0)
        slopes = [
            torch.autograd.grad(sum((part.sin().sum() for part in found.values()), tensor(0.0)), list(values.values()))
            for found in (mine, theirs)
        ]
        assert max(distance(x, y) for x, y in zip(*slopes, strict=True)) < IDENTITY


def test_a_graph_that_forgets_to_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: nothing counts as written to."""
    monkeypatch.setattr(em_pyro.recording.record, "_written", lambda func, args, kwargs: [])
    try:
        graph = record(in_place, {"a": tensor(0.3), "b": tensor(2.0)}, {})
    except Untraceable:
        return
    values = {"a": tensor(0.8), "b": tensor(0.1)}
    mine, theirs = graph(values), in_place(values)
    assert not all(close(mine[name], theirs[name], EXACT) for name in theirs)


def test_the_part_that_some_parameters_enter() -> None:
    """Outputs that they do not enter are left out, and what the others determine is computed once."""

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fixed = values["b"].exp().log().exp()
        return {"both": values["a"] * fixed, "b": fixed + 1}

    graph = record(f, {"a": tensor(1.0), "b": tensor(2.0)}, {})
    assert graph.depends == {"both": {"a", "b"}, "b": {"b"}}
    part = graph.at({"a": tensor(1.0), "b": tensor(0.5)}, ["a"])
    assert set(part.outputs) == {"both"}
    assert len(part) == 1
    assert distance(part({"a": tensor(3.0), "b": tensor(9.0)})["both"], 3 * tensor(0.5).exp()) < IDENTITY
