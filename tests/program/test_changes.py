"""What counts as a change between two calls, and how it is named; without one a program is planned once."""

import importlib.util
import sys
from collections import deque
from pathlib import Path
from types import ModuleType

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro.nn import PyroModule, PyroParam
from test_fingerprint import X, _buffer, evidence, rates
from torch import Tensor, tensor

from em_pyro import EM
from em_pyro.program.changes.fingerprint import fingerprint, first_change, lasting, unread

LEVEL = 0.0
"""Read by a model, and changed."""


def test_a_step_runs_no_model_that_can_be_read() -> None:
    """A model of torch, Pyro and the user's own code is run by no step but the first."""
    assert unread(fingerprint(rates, (tensor(X),), {"level": 0.0})) == ()
    assert unread(fingerprint(_buffer()[0], (), {})) == ()
    held = deque([0.0])
    assert unread(fingerprint(lambda: held, (), {})) == ("held",)


def test_numbers_and_modules_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A global number, and an attribute of a module of the user's."""
    (tmp_path / "settings_of_mine.py").write_text("level = 0.0\n")
    spec = importlib.util.spec_from_file_location("settings_of_mine", tmp_path / "settings_of_mine.py")
    assert spec is not None
    assert spec.loader is not None
    settings: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "settings_of_mine", settings)
    spec.loader.exec_module(settings)
    x = tensor(X)
    em = EM(lambda x: rates(x, LEVEL + settings.level))
    em.step(x)
    settings.level = 1.0
    want = evidence(x, 1.0)
    assert -em.step(x) == pytest.approx(want, rel=IDENTITY)
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 2.0)
    want = evidence(x, 3.0)
    assert -em.step(x) == pytest.approx(want, rel=IDENTITY)


@pytest.mark.parametrize("module", [False, True], ids=["function", "module"])
def test_steps_on_the_same_data_plan_once(*, module: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What EM itself writes, and what the model keeps of its own runs, is no change."""
    seen: list[float] = []

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = PyroParam(tensor([-1.0, 2.0]))
            self.calls = 0

        def forward(self, x: Tensor) -> None:
            self.calls += 1
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
                pyro.sample("x", dist.Normal(self.loc[z], 1.0), obs=x)

    def model(x: Tensor) -> None:
        seen.append(float(x.sum()))
        rates(x)

    from em_pyro.after import driver

    planned = []
    prepare = driver.prepare
    monkeypatch.setattr(driver, "prepare", lambda *a, **k: planned.append(1) or prepare(*a, **k))
    em, x = EM(Model() if module else model), tensor(X)
    losses = [em.step(x) for _ in range(5)]
    em.posterior(x)
    em.fit(x)
    assert len(planned) == 1
    assert losses == sorted(losses, reverse=True)
    assert losses[1] < losses[0]


def test_weights_of_a_module_move_from_step_to_step() -> None:
    """They are not in the store, but in the module; what the user writes there counts."""
    torch.manual_seed(0)
    net, x = torch.nn.Linear(1, 1), torch.linspace(-1.0, 1.0, 20).unsqueeze(1)
    y = 2.0 * x[:, 0] + 3.0 * (torch.arange(20) % 2)

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", dist.Normal(net(x)[:, 0] + 3.0 * z, 1.0), obs=y)

    em = EM(model)
    losses = [em.step(x, y) for _ in range(4)]
    assert losses[3] < losses[2] < losses[1] < losses[0]
    with torch.no_grad():
        net.bias.fill_(-40.0)
    assert em.step(x, y) > losses[0] + 100


def test_a_change_is_named() -> None:
    """By what stands in the source; what the model changes itself is left out."""
    held = {"x": tensor(X), "calls": 0}

    def model() -> None:
        held["calls"] += 1
        rates(held["x"])

    before = fingerprint(model, (), {})
    model()
    after = fingerprint(model, (), {})
    assert first_change(before, after) == "held['calls']"
    kept = lasting(before, after)
    assert not first_change(kept, after)
    model()
    assert not first_change(kept, fingerprint(model, (), {}))
    held["x"].mul_(2.0)
    assert first_change(kept, fingerprint(model, (), {})) == "held['x']"
