"""When a fit begins to move by other than plain steps."""

from __future__ import annotations

import pyro
import pytest
import torch
from oracles.tolerances import IDENTITY
from programs import networks, registry
from test_quasi_newton import deaths, fitted

from em_pyro import EM, ParameterError
from em_pyro.fit.acceleration import when


def trail(rate: float, first: float = 1.0, many: int = 12) -> list[float]:
    """Return objectives whose gains shrink at a rate."""
    objectives = [-100.0]
    for step in range(many):
        objectives.append(objectives[-1] + first * rate**step)
    return objectives


def test_plain_while_it_is_fast() -> None:
    """They begin once a settled rate says that more than a hundred steps are left, and not before."""
    assert when.slow(trail(0.99, first=0.01), 1e-8)
    assert not when.slow(trail(0.8, first=0.01), 1e-8)
    assert not when.slow(trail(0.99), 1e-8), "so far from a maximum a rate says nothing"
    near = trail(0.99, first=0.01)
    assert not when.slow(near[:6], 1e-8), "too few gains for a rate"
    assert not when.slow([*near, near[-1] + 0.02], 1e-8), "the last gain is larger"
    assert not when.slow([*near[:-1], near[-2] + 1e-6], 1e-8), "the last rate is another"
    assert not when.slow(near, 0.0)
    assert not when.slow(trail(0.999, first=1e-9), 1e-8), "there already"


def test_a_fast_fit_is_plain() -> None:
    """To the last digit, by default."""
    case = registry.build("gaussian_mixture")
    plain, auto = (fitted(case.model, case.args, acceleration=kind) for kind in (None, "auto"))
    assert auto.acceleration is None
    assert auto.path == plain.path


def test_steps_and_whole_runs_are_plain_by_default() -> None:
    """`step`, and `tol=0`."""
    model, data, start = deaths()
    plain, auto = (fitted(model, data, starts=start, acceleration=k, tol=0, max_steps=60) for k in (None, "auto"))
    assert auto.acceleration is None
    assert auto.path == plain.path
    with pyro.get_param_store().scope():
        em = EM(model, starts=start, acceleration="quasi-newton")
        losses = [em.step(*data) for _ in range(20)]
    assert [-loss for loss in losses] == pytest.approx(plain.path[:20], rel=1e-14)


def test_an_m_step_that_is_no_maximum_stays_plain() -> None:
    """By default: a callable, which quasi-Newton steps refuse by name, and some steps of Adam."""
    model, data, start = deaths()
    own = {"weights": lambda found, now: found["kind"][0] / found["kind"][0].sum()}
    default = fitted(model, data, starts=start, m_step=own, max_steps=200)
    assert default.acceleration is None
    with pytest.raises(ParameterError, match=r"quasi-newton.*weights"):
        EM(model, m_step=own, acceleration="quasi-newton")
    with pyro.get_param_store().scope():
        em = EM(networks.Gate())
        assert "Adam" in str(em.plan(*networks.lines()))
        assert em._prepared is not None
        assert when.wished(em._prepared, "auto") is when.PLAIN
        assert when.wished(em._prepared, "quasi-newton") is when.WISHES["quasi-newton"]


def test_starts_begin_each_at_their_time() -> None:
    """They advance as a batch while they are fast; each ends as it does alone."""
    model, data, start = deaths()
    starts = [start, start | {"rate": torch.tensor([0.5, 4.0])}, start | {"rate": torch.tensor([2.0, 2.2])}]
    together = fitted(model, data, starts=starts)
    assert together.starts.found == 3
    for values, run in zip(starts, together.starts, strict=True):
        alone = fitted(model, data, starts=values)
        assert alone.acceleration is not None
        assert (alone.outcome, alone.num_steps) == (run.outcome, run.num_steps)
        assert alone.objective == pytest.approx(run.objective, rel=IDENTITY)
