"""Coefficients and scales that the model computes from parameters: exact in the latents, torch in the M-step."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.gaussian_steps import check_step
from oracles.refusals import refuse
from oracles.tolerances import SOLVERS
from programs.computed import COMPUTED, param, positive
from torch import Tensor
from torch.nn.functional import softplus

from em_pyro import EM
from em_pyro.fit.problem import prepare
from em_pyro.reading.latents.computed import Computed


def numbers(*shape: int, seed: int = 4) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_arguments(name: str) -> None:
    """Evidence, its gradient, and a step to the maximum of `Q`, by brute force."""
    check_step(COMPUTED[name], {"x": numbers(6, 3) + numbers(6, 1, seed=5)})


def test_coefficients_that_are_off_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coefficient that is one thousandth larger has another evidence."""
    right = Computed.run
    off = {"[loc of x]": 1.001}
    monkeypatch.setattr(
        Computed, "run", lambda self, params: {n: off.get(n, 1.0) * v for n, v in right(self, params).items()}
    )
    with pytest.raises(Exception, match="expected a residual that is affine|assert"):
        check_step(COMPUTED["exponential"], {"x": numbers(6, 3)})


def marked(x: Tensor, curve: Any) -> None:
    """One factor whose first loading is one; `curve` leads to the others."""
    loading = torch.cat([torch.ones(1).double(), curve(param("loading", [0.8, 0.6, 0.9]))])
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), positive("spread", 1.0)))
        law = dist.Normal(param("loc", [0.0] * 4) + z[:, None] * loading, positive("scale", [1.0] * 4))
        pyro.sample("x", law.to_event(1), obs=x)


def test_a_fit_is_that_of_the_plain_parameters() -> None:
    """Where the curve is onto: likelihood, standard errors, posteriors, other rows."""
    x = numbers(120, 4) + 1.3 * numbers(120, 1, seed=6)
    fits = []
    for curve in (lambda v: v, softplus):
        pyro.clear_param_store()
        fits.append(EM(marked, tol=1e-10).fit(x, curve))
    plain, curved = fits
    assert distance(torch.tensor(curved.objective), torch.tensor(plain.objective)) < SOLVERS
    assert distance(softplus(curved.params["loading"]), plain.params["loading"]) < 1e-3
    errors = [fit.information().se for fit in fits]
    assert distance(errors[1]["loc"], errors[0]["loc"]) < 1e-3
    slope = torch.sigmoid(curved.params["loading"])
    assert distance(errors[1]["loading"] * slope, errors[0]["loading"]) < 1e-2
    law, other = curved.posterior.marginal("z"), curved.posterior_on(x[:3], softplus).marginal("z")
    assert distance(other.mean, law.mean[:3]) < SOLVERS
    assert distance(law.mean, plain.posterior.marginal("z").mean) < 1e-3
    pyro.clear_param_store()
    said = str(EM(marked).plan(x, softplus))
    assert "site x: location and scale are recorded once as tensor operations, because" in said
    assert "spread     closed form" in said


def computed_of(model: Any, *args: Any) -> Computed:
    """What a program computes of its parameters."""
    pyro.clear_param_store()
    made = prepare(model, args, {}, {}, check=True).engine.recognition.bank.computed
    assert isinstance(made, Computed)
    return made


def test_the_model_is_not_run_again() -> None:
    """Steps repeat the recording."""
    runs = 0

    def counted(x: Tensor) -> None:
        nonlocal runs
        runs += 1
        marked(x, softplus)

    x = numbers(20, 4) + 1.3 * numbers(20, 1, seed=6)
    pyro.clear_param_store()
    em = EM(counted, max_steps=2)
    em.fit(x)
    few, runs = runs, 0
    pyro.clear_param_store()
    assert EM(counted, max_steps=12).fit(x).num_steps == 12
    assert runs == few


def test_steps_of_a_loop_are_one_site() -> None:
    """What is operation by operation the same is computed once, and its steps are summed together."""
    made = computed_of(COMPUTED["tanh of a step"], numbers(6, 3))
    assert made.graph is not None
    ends = {made.of(name) for name in made.locations}
    assert len(made.locations) > 2 * len(ends)
    assert set(made.graph.outputs) == {text for n in ends for text in (f"[loc of {n}]", f"[scale of {n}]")}


def test_what_cannot_be_recorded_is_run_and_said() -> None:
    """An `if` on a parameter."""

    def curve(v: Tensor) -> Tensor:
        return softplus(v) if bool(v.sum() > -1e9) else v

    x = numbers(60, 4) + 1.3 * numbers(60, 1, seed=6)
    fits = []
    for one in (softplus, curve):
        pyro.clear_param_store()
        fits.append(EM(marked).fit(x, one))
    assert distance(torch.tensor(fits[1].objective), torch.tensor(fits[0].objective)) < SOLVERS
    made = computed_of(marked, x, curve)
    assert made.graph is None
    pyro.clear_param_store()
    said = str(EM(marked).plan(x, curve))
    assert "site x: location and scale are computed by a run of the model in every step, as they cannot be" in said
    assert "reads a number out of a tensor" in said


def test_weights_of_a_module_are_refused() -> None:
    """They are no values of a run."""
    net = torch.nn.Linear(1, 3).double()

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z[:, None] * net.weight[:, 0].exp(), 1.0).to_event(1), obs=x)

    refuse(
        "model", r'^Site "x": expected a location and a scale that are computed from pyro.param', model, numbers(6, 3)
    )
