"""A fit that is ended before its time, by Ctrl-C or by the callback; and what a fit that is over leaves in memory."""

import gc
import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.loops import equal, mixture, points, stored
from programs.registry import build
from torch import Tensor

from em_pyro import EM, Fit
from em_pyro.fit.loop import State

OPTIONS: dict[str, dict[str, Any]] = {
    "one start": {},
    "several": {"starts": 7},
    "accelerated": {"acceleration": "squarem"},
    "torch": {"m_step": {"loc": "torch"}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_an_error_of_the_callback_keeps_the_fit(options: dict[str, Any]) -> None:
    """It is the user's own that is raised; `last` has the fit so far, and the store is as it was."""
    x, mine, seen = points(), RuntimeError("mine"), list[float]()

    def fail(state: State) -> None:
        seen.append(state.objective)
        if state.step >= 3:
            raise mine

    mixture(x)
    before = stored()
    em = EM(mixture, callback=fail, tol=0, **options)
    with pytest.raises(RuntimeError, match="mine") as caught:
        em.fit(x)
    assert caught.value is mine
    assert isinstance(em.last, Fit)
    assert em.last.outcome == "interrupted"
    assert em.last.objective == pytest.approx(max(seen), rel=IDENTITY)
    assert em.last.posterior.log_evidence == pytest.approx(em.last.log_likelihood, rel=IDENTITY)
    assert equal(stored(), before)
    assert distance(em.params["loc"], pyro.param("loc")) == 0


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_signal_keeps_the_fit(options: dict[str, Any], signalled: None) -> None:
    """Ctrl-C leaves the best values in the store, which are those of `last`."""

    def press(state: State) -> None:
        if state.step >= 3:
            os.kill(os.getpid(), signal.SIGINT)

    em = EM(mixture, callback=press, tol=0, **options)
    with pytest.raises(KeyboardInterrupt):
        em.fit(points())
    assert em.last is not None
    assert em.last.outcome == "interrupted"
    assert farthest(em.last.params, em.params) < IDENTITY
    assert distance(pyro.param("loc"), em.last.params["loc"]) < IDENTITY


def test_an_interrupt_of_the_last_look_keeps_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all starts have ended and the model is run once more."""
    from em_pyro.after import answer
    from em_pyro.fit.starting import ends

    def press(*args: Any) -> None:
        raise KeyboardInterrupt

    want = EM(mixture).fit(points())
    pyro.clear_param_store()
    em = EM(mixture)
    for module, name in ((answer, "measured"), (ends, "disagreements")):
        monkeypatch.setattr(module, name, press)
        pyro.clear_param_store()
        with pytest.raises(KeyboardInterrupt):
            em.fit(points())
        assert em.last is not None
        assert em.last.outcome == "interrupted"
        assert farthest(em.last.params, want.params) < IDENTITY


def test_help_says_where_an_interrupted_fit_is() -> None:
    """Where a user looks."""
    assert "last:" in str(EM.__doc__)
    assert "KeyboardInterrupt" in str(EM.fit.__doc__)


def test_a_callback_that_saves_the_store_saves_the_values_of_the_step(tmp_path: Path) -> None:
    """Those of the `State` that it is shown, also in `params`."""
    saved: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]] = []

    def save(state: State) -> None:
        pyro.get_param_store().save(tmp_path / f"{state.step}.pt")
        saved.append((state.params, {n: pyro.param(n).detach().clone() for n in stored()}, dict(em.params)))

    em = EM(mixture, callback=save, max_steps=4, tol=0)
    em.fit(points())
    assert len(saved) == 4
    for state, store, params in saved:
        assert farthest(state, store) < IDENTITY
        assert farthest(state, params) < IDENTITY
    assert farthest(saved[0][0], saved[3][0]) > 1e-3
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "2.pt")
    assert distance(pyro.param("loc"), saved[1][0]["loc"]) < IDENTITY


@pytest.fixture
def signalled() -> Iterator[None]:
    """Let SIGINT be KeyboardInterrupt, whatever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixture", {}),
        ("mixture", {"starts": 6}),
        ("mixture", {"collapse": False}),
        ("mixture", {"m_step": {"scale": "fixed"}}),
        ("mixture", {"acceleration": "squarem"}),
        ("hmm_counts", {}),
        ("hmm_autoregressive", {}),
        ("ModuleMixture", {}),
    ],
    ids=str,
)
def test_deleted_fits_free_their_data(name: str, options: dict[str, Any]) -> None:
    """At once: nothing refers to them in a cycle, which would wait for the collector of garbage."""
    model, *args = (mixture, points()) if name == "mixture" else (build(name).model, *build(name).args)
    gc.disable()
    try:
        data = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
        alive = [weakref.ref(value) for value in data if isinstance(value, Tensor)]
        em = EM(model, max_steps=3, **options)
        fit = em.fit(*data)
        assert torch.isfinite(torch.as_tensor(fit.posterior.log_evidence))
        em.step(*data)
        del em, fit, data
        pyro.clear_param_store()
        assert alive
        assert not [ref for ref in alive if ref() is not None]
    finally:
        gc.enable()
