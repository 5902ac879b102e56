"""A fit as ArviZ's data: dimensions are the plates, draws are the posterior's, and nothing is made up."""

import sys
from importlib.util import find_spec
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.varied import PROGRAMS
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, Fit, ModelError, ParameterError, to_inference_data
from em_pyro.program.handlers import LABELS

if find_spec("arviz") is None:  # its import takes seconds: where a test needs it
    pytest.skip("needs ArviZ: pip install 'em-pyro[arviz]'", allow_module_level=True)

X = tensor([[0.1, 2.0, 1.0], [3.0, 1.5, -1.0]])


def groups(x: Tensor) -> None:
    """Classes of rows, effects of groups that are vectors, a prior, and parameters with and without dimensions."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    step = pyro.param("step", tensor([1.0, 2.0]))
    spread = pyro.param("spread", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("groups", len(x), dim=-3):
        effect = pyro.sample("effect", dist.Normal(torch.zeros(2), spread).to_event(1))
        with pyro.plate("rows", x.shape[1], dim=-1):
            kind = pyro.sample("kind", dist.Categorical(tensor([0.2, 0.3, 0.5])))
            pyro.sample("sign", dist.Bernoulli(tensor([0.2, 0.5, 0.9])[kind]), obs=(x[:, None] > 0.5).double())
            pyro.sample("x", dist.Normal(shift + step[0] * effect[..., 0], 1.0), obs=x[:, None])


def fitted(*args: Any, model: Any = groups, **options: Any) -> Fit:
    """Stay at the start: its values do as well as any."""
    return EM(model, max_steps=0, **options).fit(*args)


def test_groups() -> None:
    """Every group has what it is for, under the names of sites and plates."""
    fit = fitted(X)
    data = to_inference_data(fit, draws=7, seed=3, coords={"groups": ["a", "b"]})
    drawn = fit.posterior.sample(7, seed=3)
    assert list(data) == ["posterior", "log_likelihood", "observed_data", "constant_data"]
    assert data.posterior["kind"].dims == ("chain", "draw", "groups", "rows")
    assert data.posterior["effect"].dims == ("chain", "draw", "groups", "effect_dim_0")
    close(data.posterior["kind"].values[0], drawn["kind"].reshape(7, 2, 3))
    close(data.posterior["effect"].sel(groups="b").values[0], drawn["effect"].reshape(7, 2, 2)[:, 1])
    assert {name: value.shape for name, value in data.constant_data.items()} == {
        "shift": (),
        "step": (2,),
        "spread": (),
    }
    close(data.constant_data["step"].values, fit.params["step"])
    assert data.observed_data["x"].dims == ("groups", "rows")
    close(data.observed_data["x"].sel(groups="b").values, X[1])
    assert list(data.log_likelihood) == ["log_evidence_groups"]
    close(data.log_likelihood["log_evidence_groups"].values, fit.posterior.log_evidence_by("groups"))
    close(float(data.log_likelihood["log_evidence_groups"].sum()), fit.log_likelihood)
    assert data.posterior.attrs["outcome"] == "step limit"
    assert all(data[group].attrs["inference_library"] == "em_pyro" for group in data)


def test_copies() -> None:
    """What is written into it moves neither the fit nor its data."""
    x = X.clone()
    fit = fitted(x)
    data = to_inference_data(fit, draws=2)
    data.observed_data["x"].values[:] = 9.0
    data.constant_data["step"].values[:] = 9.0
    close(x, X)
    close(fit.params["step"], tensor([1.0, 2.0]))


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_program(name: str) -> None:
    """Every program has its latents, its plates as dimensions, and the evidence of its rows where they have one."""
    case = build(name)
    fit = EM(case.model, max_steps=0, check=False).fit(*case.args)
    program, law = fit._alive().program, fit.posterior
    drawn = law.sample(3, seed=1)
    data = to_inference_data(fit, draws=3, seed=1)
    assert ("posterior" in data) == bool(drawn)
    for site, values in drawn.items():
        found = data.posterior[site]
        assert found.dims[:2] == ("chain", "draw")
        assert all(found.sizes[dim] == program.plates[dim] for dim in found.dims[2:] if dim in program.plates)
        close(found.values.ravel(), values.ravel())
    for site, found in data.observed_data.items():
        assert not site.endswith(LABELS)
        assert all(found.sizes[dim] == program.plates[dim] for dim in found.dims if dim in program.plates)
    for found in data.log_likelihood.values() if "log_likelihood" in data else ():
        assert found.size == program.plates[found.dims[0]]


def hidden_in_part(y: Tensor, seen: Tensor) -> None:
    """Leave some steps of a chain out."""
    law = dist.Normal(pyro.param("loc", tensor([5.0, 9.0])), 1.0).mask(seen.unsqueeze(-1))
    with pyro.plate("sequences", len(y)):
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), tensor([[0.9, 0.1], [0.3, 0.7]]).log(), law), obs=y)


def masked(y: Tensor, seen: Tensor) -> None:
    """Leave some entries of vectors out."""
    loc = pyro.param("loc", tensor([[5.0], [9.0]]))
    with pyro.plate("sequences", len(y)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("y", dist.Normal(loc[z], 1.0).expand((*z.shape, 3)).mask(seen).to_event(1), obs=y)


@pytest.mark.parametrize("model", [hidden_in_part, masked])
def test_what_is_masked_is_missing(model: Any) -> None:
    """Entries that nobody sees are NaN, the others as they were; events have the dimensions that ArviZ gives them."""
    y, seen = torch.arange(6).reshape(2, 3).double(), tensor([[True, True, True], [True, False, False]])
    found = to_inference_data(fitted(y, seen, model=model), draws=2).observed_data["y"]
    assert found.dims == ("sequences", "y_dim_0")
    close(found.values[seen], y[seen])
    assert bool(torch.as_tensor(found.values)[~seen].isnan().all())


def test_labels_are_draws() -> None:
    """A partly labelled latent is among the latents, with its labels, and is no data."""

    def model(x: Tensor, label: Tensor, known: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])), obs=label, obs_mask=known)  # type: ignore[arg-type]
            pyro.sample("x", dist.Normal(pyro.param("step", tensor(1.0)) * z, 1.0), obs=x)

    data = to_inference_data(fitted(torch.zeros(2), tensor([1, 0]), tensor([True, False]), model=model), draws=50)
    assert bool((data.posterior["z"].values[..., 0] == 1).all())
    assert set(data.posterior["z"].values[..., 1].ravel().tolist()) == {0, 1}
    assert list(data.observed_data) == ["x"]


def test_what_does_not_fit_is_named() -> None:
    """Numbers of draws, labels of rows, names of plates, data that have changed."""
    x = X.clone()
    fit = fitted(x)
    with pytest.raises(ParameterError, match="draws to be a number of at least one, got 0"):
        to_inference_data(fit, draws=0)
    with pytest.raises(ParameterError, match=r'coords\["groups"\]: expected 2 labels of its rows, got 3'):
        to_inference_data(fit, coords={"groups": ["a", "b", "c"]})
    with pytest.raises(ParameterError, match=r'coords\["shops"\]: expected a name of a plate'):
        to_inference_data(fit, coords={"shops": ["a"]})

    def chained(x: Tensor) -> None:
        with pyro.plate("chain", len(x)):
            z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
            pyro.sample("x", dist.Normal(pyro.param("slope", tensor(1.0)) * z, 1.0), obs=x)

    with pytest.raises(ModelError, match='Plate "chain": expected another name'):
        to_inference_data(fitted(torch.zeros(2), model=chained))
    with pytest.raises(ParameterError, match="expected a Fit, as EM.fit returns it, got function"):
        to_inference_data(fitted)  # type: ignore[arg-type]
    x[0, 0] = 7.0
    with pytest.raises(DataError, match="since then"):
        to_inference_data(fitted_anew(fit))


def fitted_anew(fit: Fit) -> Fit:
    """Forget the posterior that was asked for before."""
    fit.__dict__.pop("posterior", None)
    return fit


def test_without_arviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its absence is a sentence."""
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"expected arviz, which is not installed. pip install 'em-pyro\[arviz"
    ):
        to_inference_data(fitted(X))


def test_arviz_takes_it() -> None:
    """Its table of the draws has the means of the posterior, and its test by held-out rows refuses points."""
    import arviz

    fit = fitted(X)
    data = to_inference_data(fit, draws=4000)
    table = arviz.summary(data, var_names=["effect"], kind="stats", round_to="none")
    law = fit.posterior.marginal("effect")
    error = 5 * law.stddev.ravel() / 4000**0.5
    assert bool(((torch.tensor(table["mean"].to_numpy()) - law.mean.ravel()).abs() < error).all())
    with pytest.raises((KeyError, AttributeError)):  # before version 1, and from it on
        arviz.loo(data)
