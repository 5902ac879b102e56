"""Recorded sites that are one function of different data are evaluated as one."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, lay_out
from oracles.recordings import EXACT, whole_recording
from programs.zoo import simulated
from torch import Tensor, tensor

import em_pyro.recording.fold
from em_pyro.fit.problem import prepare
from em_pyro.reading.design.tables import Tables
from em_pyro.recording.fold import Template, fold
from em_pyro.recording.record import record
from em_pyro.recording.recorded import close


@pytest.mark.parametrize("name", ["hmm-with-covariate", "hmm-categorical", "hmm-multivariate"])
def test_sites_that_are_one_function_are_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer operations, the same values; where an operation cannot be mapped over a stack, they stay apart."""
    built = lay_out(*simulated(name, T=16))
    recording = whole_recording(built)
    monkeypatch.setattr(Template, "__call__", lambda self, *values: torch.zeros(()).mm(torch.zeros(())))
    apart = whole_recording(built)
    monkeypatch.undo()
    assert recording.folded
    assert apart.folded == {}
    assert 2 * len(recording.graph) < len(apart.graph)
    both = recording(built.there).factors, apart(built.there).factors
    assert both[0].keys() == both[1].keys()
    assert all(part.names == both[1][site].names for site, part in both[0].items())
    assert max(distance(part.tensor, both[1][site].tensor) for site, part in both[0].items()) < 1e-12


def test_a_chain_takes_as_many_operations_however_long() -> None:
    """Thirty steps are recorded as twenty are: transitions by a probit, of which every step has a table of its own."""

    def probit(y: Tensor, u: Tensor) -> None:
        slope, level = pyro.param("slope", tensor([0.3, -0.2])), pyro.param("level", tensor([-0.5, 0.6]))
        loc, state = pyro.param("loc", tensor([0.0, 2.0])), None
        for t in pyro.markov(range(len(y))):
            stay = 0.5 * (1 + torch.erf(level + slope * u[t]))
            rows = torch.stack([stay, 1 - stay], -1)
            law = tensor([0.5, 0.5]) if state is None else rows[state]
            state = pyro.sample(f"state_{t}", dist.Categorical(law))
            pyro.sample(f"y_{t}", dist.Normal(loc[state], 1.0), obs=y[t])

    sizes = []
    for T in (20, 30):
        pyro.clear_param_store()
        y = torch.linspace(-1.0, 3.0, T)
        here = prepare(probit, (y, y.sin()), {}, {}, check=False)
        tables = here.engine.recognition.bank.computed
        assert isinstance(tables, Tables)
        sizes.append(len(tables.graph))
    assert sizes[0] == sizes[1] < 40


def test_checks_stay_behind_what_they_check() -> None:
    """A factorisation of each output, whose check has no result: not folded, and still an error where it fails."""
    matrices = [torch.eye(2) * (k + 1.0) for k in range(4)]

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        roots = [torch.linalg.cholesky(matrix * values["a"].exp() - values["b"]) for matrix in matrices]
        return {f"out{k}": root.diagonal().log().sum() for k, root in enumerate(roots)}

    graph, _ = fold(record(f, {"a": tensor(0.1), "b": tensor(0.2)}, {}), [f"out{k}" for k in range(4)])
    values = {"a": tensor(0.7), "b": tensor(0.3)}
    assert all(torch.equal(part, f(values)[name]) for name, part in graph(values).items())
    with pytest.raises(torch.linalg.LinAlgError):
        graph({"a": tensor(0.7), "b": tensor(9.0)})


def test_folding_mistakes_no_site_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: all outputs look alike; the comparison with the model notices."""

    def f(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"out{k}": (values["a"] * (k + 1.0)) * tensor([1.0, 2.0 + k]) for k in range(3)}

    graph = record(f, {"a": tensor(2.0)}, {})
    right, members = fold(graph, list(graph.outputs))
    assert members == {}
    monkeypatch.setattr(em_pyro.recording.fold, "_signature", lambda steps, end: "alike")
    wrong, members = fold(graph, list(graph.outputs))
    assert members == {"out0": ("out0", "out1", "out2")}
    found = wrong({"a": tensor(1.0)})["out0"]
    assert not close(found[1], right({"a": tensor(1.0)})["out1"], EXACT)
