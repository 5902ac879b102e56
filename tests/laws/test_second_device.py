"""Data on another device than torch's default: everything the library makes lies there too, and the host rarely waits.

There is no such device here; `pretend.py` plays one.
"""

import contextlib
from typing import Any

import pyro
import pytest
import torch
from oracles.agreement import close
from oracles.pretend import MixedDevicesError, SecondDevice, sent, there
from oracles.varied import VARIED
from programs.zoo import STEPS, ZOO, simulated

from em_pyro import EM
from em_pyro.fit import problem as prepare
from em_pyro.program import devices as placement

CHECKED = ("coins", "gaussian-full", "latent-classes-missing", "regression-experts", "gamma", "abo", "hmm-gaussian")
"""Models whose self-check runs there too, which is the same code for all: plain, masked, of rows, and a loop."""

SENT = [name for name in ZOO if name in (*VARIED, *CHECKED)]
"""Models of every kind, and of chains."""

CLOSED = ("coins", "gaussian-full", "gaussian-tied", "latent-classes")


def fitted(name: str, steps: int, device: SecondDevice | None, **options: Any) -> Any:
    """Fit a model of the zoo, its data here or there."""
    model, data = simulated(name, **({"T": STEPS} if name.startswith("discrete-hmm-") else {}))
    pyro.clear_param_store()
    with device or contextlib.nullcontext():
        return EM(model, tol=0, max_steps=steps, **options).fit(*(data if device is None else sent(data)))


@pytest.mark.parametrize("name", SENT)
def test_the_same_fit_there(name: str) -> None:
    """A fit of two steps ends where it ends here, and its values are there; a network takes many in one."""
    steps = 1 if name == "neural-em" else 2
    away, home = fitted(name, steps, SecondDevice(), check=name in CHECKED), fitted(name, steps, None, check=False)
    assert all(there(value) for value in away.fitted.values())
    for parameter, value in home.params.items():
        close(away.params[parameter], value, 1e-6)


@pytest.mark.parametrize("name", CLOSED)
def test_one_wait_a_step(name: str) -> None:
    """Five steps more wait five times more."""
    found = []
    for steps in (15, 20):  # the ends of shorter fits differ
        device = SecondDevice()
        fitted(name, steps, device, check=False)
        found.append(device.waits.total())
    assert found[1] - found[0] == 5


@pytest.mark.parametrize("name", CLOSED)
def test_posterior_and_restarts_there(name: str) -> None:
    """Marginals, modes, draws and random starts."""
    model, data = simulated(name)
    pyro.clear_param_store()
    device = SecondDevice()
    with device:
        fit = EM(model, starts=3, max_steps=5, check=False).fit(*sent(data))
        for latent in fit.posterior.engine.program.latents:
            assert there(fit.posterior.marginal(latent))
        fit.posterior.mode()
        fit.posterior.sample(2)


def test_tensors_made_elsewhere_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the care for where tensors are made, planning fails as it would there."""
    monkeypatch.setattr(prepare, "beside", lambda device: contextlib.nullcontext())
    with pytest.raises(MixedDevicesError):
        fitted("coins", 1, SecondDevice())


def test_the_user_is_left_alone() -> None:
    """A tensor that the model makes without naming a device is where torch makes it; ours are beside the data."""
    with SecondDevice(), placement.beside(torch.device("cuda:0")):
        assert there(torch.zeros(2))
        assert there(placement.seeded(torch.rand, 2, generator=torch.Generator()))
        with placement.visiting():
            assert not there(torch.zeros(2))
            assert there(torch.as_tensor(sent(torch.zeros(2))))
        assert there(torch.ones(2))
        with placement.beside(torch.device("cuda:0")):
            assert there(torch.ones(2))
        with pytest.raises(ZeroDivisionError), placement.visiting():
            raise ZeroDivisionError
        assert there(torch.ones(2))
    assert torch.empty(0).device.type == "cpu"
