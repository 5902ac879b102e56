"""A model that cannot be recorded is run in every step, and the plan says why."""

import pyro
import pyro.distributions as dist
import pytest
from oracles.engines import distance
from oracles.tolerances import SOLVERS
from programs.unrecordable import X, counts
from torch import Tensor, tensor

import em_pyro.fit.starting.ends
import em_pyro.recording.record
from em_pyro import EM


@pytest.mark.laws
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("branch", "reads a number out of a tensor that depends on a parameter"),
        ("number", "reads a number out of a tensor that depends on a parameter"),
        ("caught", "reads a number out of a tensor that depends on a parameter"),
        ("list", "has other values elsewhere than its recording"),
        ("gradient", 'the gradient of parameter "a" is not that of its recording'),
        ("shape", "a shape in the model depends on the value of a parameter"),
        ("buffer", "writes into a tensor that it did not make"),
        ("random", "draws random numbers"),
        ("order", "changes a tensor after it has used it"),
    ],
)
def test_what_cannot_be_recorded_is_run(how: str, reason: str) -> None:
    """The plan says why, and the fit by running the model ends where that of the plain model does."""
    plan = EM(counts).plan(X, how)
    assert any("the model is replayed in every step" in note for note in plan.notes)
    assert any(reason in note for note in plan.notes)
    if how in ("list", "gradient", "random"):  # another model, or none to be maximised
        return
    fit = EM(counts).fit(X, how)
    pyro.clear_param_store()
    plain = EM(counts)
    assert not any("replayed in every step" in note for note in plain.plan(X, "").notes)
    assert distance(fit.objective, plain.fit(X, "").objective) < SOLVERS


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("LONGEST", "it takes more than"), ("ALIVE", "recording it would take more than"), ("HELD", "it would hold")],
)
def test_what_is_too_large_is_run(limit: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations, memory while recording and memory afterwards have bounds, and the plan names the one that was hit."""

    def model(x: Tensor) -> None:
        a = pyro.param("a", tensor(0.4))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(1 + a.square() * x.exp().log1p()), obs=x)

    assert not any("replayed in every step" in note for note in EM(model).plan(X).notes)
    monkeypatch.setattr(em_pyro.recording.record, limit, 1)
    assert any(reason in note for note in EM(model).plan(X).notes)


def test_random_starts_are_no_random_model() -> None:
    """What a model draws for its starting values does not keep it from being recorded."""
    assert not any("replayed in every step" in note for note in EM(counts).plan(X, "start").notes)


def kinked(x: Tensor) -> None:
    """A mean that goes on more steeply from 30 on, by a branch that no probe sees: data at 50."""
    b = pyro.param("b", tensor(1.0))
    mean = b + 0.001 * b.square() if b.tolist() < 30 else 30.9 + 2 * (b - 30)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def test_a_branch_that_no_probe_sees_is_found_out_at_the_end() -> None:
    """The fitted values are on the other side: the recording is withdrawn, the fit goes on, and says so."""
    x = tensor([48.0, 50.0, 52.0])
    em = EM(kinked)
    assert not any("replayed in every step" in note for note in em.plan(x).notes)
    fit = em.fit(x)
    assert any("recording of ['x'] withdrawn" in note for note in fit.notes)
    assert any("the model is replayed in every step" in note for note in fit.plan.notes)
    assert distance(fit.params["b"], tensor(30 + (50 - 30.9) / 2)) < SOLVERS


def test_a_recording_that_is_believed_blindly_ends_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: nothing is compared at the end."""
    monkeypatch.setattr(em_pyro.fit.starting.ends, "disagreements", lambda engine, params: [])
    fit = EM(kinked).fit(tensor([48.0, 50.0, 52.0]))
    assert distance(fit.params["b"], tensor(30 + (50 - 30.9) / 2)) > 0.01
