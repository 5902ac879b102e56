"""Fits that end where nothing is finite: a shape without bound, a logit at infinity."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

HALF = tensor([0.5, 0.5]).double()


@pytest.mark.parametrize("known", [False, True], ids=["free", "known"])
def test_a_weibull_component_on_one_row(known: bool) -> None:  # noqa: FBT001
    """Its likelihood grows with the shape for ever, whether the scale is free or stands on the row."""
    x = tensor([0.62, 1.67, 1.8, 1.95, 2.44]).double()

    def model(x: Tensor) -> None:
        first = tensor([1.1, 0.62 if known else 0.545]).double()
        scale = first if known else pyro.param("scale", first, constraint=constraints.positive)
        shape = pyro.param(
            "shape", tensor([1.2, 400.0 if known else 11.7649]).double(), constraint=constraints.positive
        )
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(HALF))
            pyro.sample("x", dist.Weibull(scale[z], shape[z]), obs=x)

    fit = EM(model, max_steps=50).fit(x)
    assert fit.outcome == "degenerate", fit
    assert any("concentration runs to infinity" in note for note in fit.notes)


def test_the_shape_of_equal_values_beside_a_known_scale() -> None:
    """It is finite: `1 / k + r - r exp(k r) = 0` with `r = log(x / scale)`."""

    def model(x: Tensor) -> None:
        shape = pyro.param("shape", tensor(1.0).double(), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Weibull(tensor(1.0).double(), shape), obs=x)

    fit = EM(model).fit(tensor([2.0, 2.0, 2.0]).double())
    assert not fit.notes  # the closed form has not been withdrawn
    k, r = float(fit.params["shape"]), tensor(2.0).double().log()
    close(1 / k + r - r * (k * r).exp(), 0.0)


@pytest.mark.parametrize("law", [dist.Bernoulli, lambda logits: dist.Binomial(3, logits=logits)], ids=["one", "three"])
def test_the_model_has_a_value_where_logits_run_off(law: object) -> None:
    """An item that all solve: the fitted program gives the log-likelihood that the fit states, and a note names it."""
    y = tensor([0.3, -1.0, 2.0, 0.4]).double()
    x = torch.ones(4).double() if law is dist.Bernoulli else torch.full((4,), 3.0).double()

    def model() -> None:
        ease = pyro.param("ease", tensor([0.3, -0.8]).double())
        with pyro.plate("row", 4):
            z = pyro.sample("z", dist.Categorical(HALF))
            pyro.sample("x", law(logits=ease[z]), obs=x)  # type: ignore[operator]
            pyro.sample("y", dist.Normal(z.double(), 1.0), obs=y)

    fit = EM(model).fit()
    assert all(value.isfinite().all() for value in fit.params.values())
    assert any("ease" in note for note in fit.notes)
    program = poutine.substitute(model, data=fit.params)
    states = [poutine.trace(poutine.condition(program, data={"z": torch.full((4,), k)})).get_trace() for k in (0, 1)]
    rows = [sum(node["fn"].log_prob(node["value"]) for n, node in t.nodes.items() if n in "xyz") for t in states]
    close(torch.stack(rows).logsumexp(0).sum(), fit.log_likelihood)
