"""Loops with a Gaussian latent a step: the sites of one form are laid out together, as each would be by itself."""

from typing import Any

import pyro
import pytest
import torch
from oracles.agreement import close
from oracles.integrated import Integrated
from oracles.runs import counted
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from programs.gaussian_loops import LOOPS, accumulated, companion, series

from em_pyro import EM
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.gaussian.alike import merge, steps
from em_pyro.fit.problem import prepare

STEPS = 14


def engine_of(name: str, count: int = STEPS) -> Engine:
    """Plan one of the loops."""
    pyro.clear_param_store()
    return prepare(LOOPS[name], (series(count),), {}, {}, check=True).engine.full


def found(engine: Engine) -> dict[str, torch.Tensor]:
    """Log evidence and all statistics at the start of the parameters."""
    params = {name: p.initial.double() for name, p in engine.program.parameters.items()}
    expectation = expect(engine, params)
    sums = {f"{n} {k}": part for n, s in expectation.sums.items() for k, part in enumerate(s.parts)}
    return {"log evidence": expectation.log_evidence, **sums}


@pytest.mark.parametrize("name", LOOPS)
def test_evidence_is_the_integral(name: str) -> None:
    """The log evidence at the start is that of the log-joint, integrated by brute force."""
    y = series(STEPS)
    mine = float(found(engine_of(name))["log evidence"])
    law = Integrated(LOOPS[name], {"y": y}, ("z", "e"))
    truth = float(law.objective(law.start).detach()) * (2 if name == "weighted" else 1)
    assert abs(mine - truth) < IDENTITY * (1 + abs(truth))


@pytest.mark.parametrize("name", LOOPS)
def test_together_is_as_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics are those of sites that are laid out each by itself."""
    together = found(engine_of(name))
    stacked = steps.stacked
    monkeypatch.setattr(steps, "stacked", lambda sites, kinds: stacked(sites, {n: n for n in sites}))
    alone = found(engine_of(name))
    assert together.keys() == alone.keys()
    for part in together:
        close(together[part], alone[part], IDENTITY)


def test_slots_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours take the same latents in turns: were these not put in order, components would not be a chain alike."""
    before = len(engine_of("second order").units[0].sites)
    monkeypatch.setattr(merge, "_ordered", lambda rows, _: rows)
    assert len(engine_of("second order").units[0].sites) > before


def counts(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> tuple[int, int]:
    """How many sites are laid out in planning, and how often the model is run."""
    with monkeypatch.context() as patch:
        made, rows = list[Any](), steps.rows_of
        patch.setattr(steps, "rows_of", lambda *args: (made.append(1), rows(*args))[1])
        runs = counted(patch)
        engine_of(name, count)
    return len(made), len(runs)


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "companion"])
def test_work_does_not_grow_with_the_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the steps: the model is run as often, but to find which innovations each sum has; no more are laid out."""
    few, many = (counts(monkeypatch, name, count) for count in (STEPS, 2 * STEPS))
    if name == "accumulated":  # every step has a form of its own
        assert many[1] < few[1] + STEPS
    else:
        assert many == few


def test_coefficients_that_fade_are_found() -> None:
    """Powers of `phi` are soon nothing beside one, and yet each innovation is in every later step."""
    y = series(50)
    fit = EM(accumulated, max_steps=2, tol=0).fit(y)
    law = Integrated(accumulated, {"y": y}, ("e",))
    truth = float(law.objective(fit.params).detach())
    assert abs(float(fit.log_likelihood) - truth) < IDENTITY * (1 + abs(truth))


def test_sums_that_cancel_are_rounding() -> None:
    """A disturbance that has added up to nothing leaves the rounding of what was added: no latent is missing there."""
    y = series(8)
    pyro.clear_param_store()
    engine = prepare(companion, (y,), {}, {}, check=True).engine.full
    law = Integrated(companion, {"y": y}, ("z", "e"))
    truth = float(law.objective(law.start).detach())
    assert abs(float(found(engine)["log evidence"]) - truth) < IDENTITY * (1 + abs(truth))
