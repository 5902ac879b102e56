"""Endings and verdicts at the edge: parameters that run off to infinity, groups far apart, starts on the boundary."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from oracles.agreement import close
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM

SIMPLEX, POSITIVE, UNIT = constraints.simplex, constraints.positive, constraints.unit_interval


def generator(seed: int = 0) -> torch.Generator:
    """Make a seeded generator."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.laws
@pytest.mark.parametrize(("collapse", "starts"), [(True, 1), (False, 1), (True, 4)])
def test_counts_that_vary_less_than_poisson(collapse: bool, starts: int) -> None:  # noqa: FBT001
    """A mixture of negative binomials ends at the Poisson distribution, and no higher."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=SIMPLEX)
        count = pyro.param("count", torch.tensor([1.0, 3.0]), constraint=POSITIVE)
        probs = pyro.param("probs", torch.tensor([0.3, 0.6]), constraint=UNIT)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.NegativeBinomial(count[z], probs[z]), obs=x)

    x = torch.randint(1, 6, (240,), generator=generator(1)).double()
    pyro.clear_param_store()
    fit = EM(model, collapse=collapse, starts=starts).fit(x)
    assert fit.converged
    assert any("runs to infinity" in note and '"count"' in note for note in fit.notes)
    assert any("not identified" in note and '"weights"' in note for note in fit.notes)
    close(fit.log_likelihood, float(dist.Poisson(x.mean()).log_prob(x).sum()), 1e-7)


def spikes() -> dict[str, tuple[Any, Tensor, tuple[float, float]]]:
    """Families whose concentration is infinite at equal values: each with data, and a start at the equal ones."""
    wide = torch.rand(140, generator=generator())
    return {
        "Gamma": (dist.Gamma, torch.cat([torch.full((60,), 5.0), 1 + 8 * wide]), (1e4, 2e3)),
        "InverseGamma": (dist.InverseGamma, torch.cat([torch.full((60,), 5.0), 1 + 8 * wide]), (1e4, 5e4)),
        "Beta": (dist.Beta, torch.cat([torch.full((60,), 0.5), 0.1 + 0.8 * wide]), (1e4, 1e4)),
    }


@pytest.mark.parametrize("family", spikes())
def test_a_concentration_that_runs_off_is_an_ending(family: str) -> None:
    """Where values are equal the likelihood has no maximum: that is said, and is not a fall of the objective."""
    law, x, (a, b) = spikes()[family]

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.7, 0.3]), constraint=SIMPLEX)
        first = pyro.param("a", torch.tensor([2.0, a]), constraint=POSITIVE)
        second = pyro.param("b", torch.tensor([1.0, b]), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(first[z], second[z]), obs=x)

    pyro.clear_param_store()
    fit = EM(model).fit(x)
    assert fit.outcome == "degenerate"
    assert "infinity" in fit.notes[0]


def test_a_shape_that_is_infinite_is_an_ending() -> None:
    """Also where the density keeps its digits: a Weibull distribution at equal values."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.7, 0.3]), constraint=SIMPLEX)
        scale = pyro.param("scale", torch.tensor([4.0, 5.0]), constraint=POSITIVE)
        shape = pyro.param("shape", torch.tensor([2.0, 1e12]), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Weibull(scale[z], shape[z]), obs=x)

    x = torch.cat([torch.full((60,), 5.0), 1 + 8 * torch.rand(140, generator=generator())])
    pyro.clear_param_store()
    fit = EM(model).fit(x)
    assert fit.outcome == "degenerate"
    assert 'site "x": concentration runs to infinity at z=1' in fit.notes


@pytest.mark.parametrize("hole", [0.0, -1e9])
def test_what_is_masked_does_not_widen_a_replayed_site(hole: float) -> None:
    """The spread beside which a scale is nothing is that of the values that are seen."""

    def model(x: Tensor, seen: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=SIMPLEX)
        root = pyro.param("root", torch.tensor([0.5, 1.5]))
        scale = pyro.param("scale", torch.tensor([1.0, 1.0]), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(root[z] ** 3, scale[z]).mask(seen), obs=x)

    x = torch.randn(100, generator=generator()) + 2.0 + 6.0 * (torch.arange(100) % 2)
    seen = torch.rand(100, generator=generator(1)) < 0.8
    pyro.clear_param_store()
    assert EM(model).fit(torch.where(seen, x, hole), seen).converged


def test_a_recording_outlives_a_change_of_form() -> None:
    """While clusters move apart the model is not run, though another site of it is played from a recording."""
    calls = 0

    def model(x: Tensor, y: Tensor) -> None:
        nonlocal calls
        calls += 1
        loc = pyro.param("loc", torch.tensor([0.0, 9e3]))
        scale = pyro.param("scale", torch.full((2,), 3e3), constraint=POSITIVE)
        wide = pyro.param("wide", torch.tensor([0.5, 2.0]), constraint=POSITIVE)
        half = torch.tensor([0.5, 0.5])
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc[pyro.sample("z", dist.Categorical(half))], scale[0]), obs=x)
        with pyro.plate("others", len(y)):
            pyro.sample("y", dist.Gumbel(0.0, wide[pyro.sample("k", dist.Categorical(half))]), obs=y)

    x = 1e4 * (torch.arange(300) % 2) + torch.randn(300, generator=generator())
    y = torch.randn(50, generator=generator(1))
    counts = []
    for steps in (10, 20):
        pyro.clear_param_store()
        em, calls = EM(model, tol=0, max_steps=steps), 0
        fit = em.fit(x, y)
        assert fit.switches > 0
        counts.append(calls)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("law", "ratio"), [("Normal", 1e5), ("Exponential", 1e5), ("Exponential", 1e9)])
def test_a_state_of_small_values_has_its_rows(law: str, ratio: float) -> None:
    """A state counts by its rows, however small its values beside those of another."""
    unit = torch.where(torch.arange(300) % 3 == 0, 1.0, ratio)
    x = unit * (
        torch.randn(300, generator=generator()) if law == "Normal" else -torch.rand(300, generator=generator()).log()
    )

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=SIMPLEX)
        scale = pyro.param("scale", torch.tensor([2.0, ratio]), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(0.0, scale[z]) if law == "Normal" else dist.Exponential(1 / scale[z]), obs=x)

    pyro.clear_param_store()
    assert EM(model).fit(x).converged


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_far_clusters_keep_their_closed_form(offset: float) -> None:
    """From a good start a registered family is compared with the model's density in the form that has the digits."""
    x = (torch.arange(300) % 3) * 1e5 + torch.randn(300, generator=generator()) + offset

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.3, 0.3, 0.4]), constraint=SIMPLEX)
        loc = pyro.param("loc", offset + torch.tensor([0.0, 1e5, 2e5]))
        scale = pyro.param("scale", torch.full((3,), 2.0), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    pyro.clear_param_store()
    fit = EM(model, m_step={"loc": "closed", "scale": "closed"}).fit(x)
    assert fit.converged
    parts = [x[k::3] for k in range(3)]
    close(fit.params["scale"], torch.stack([part.std(correction=0) for part in parts]), 1e-9)


def test_single_steps_keep_digits_as_a_fit_does() -> None:
    """From scales as wide as the clusters are apart, by `step` as by `fit`."""
    x = (torch.arange(300) % 3) * 5e5 + torch.randn(300, generator=generator())

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(3) / 3, constraint=SIMPLEX)
        loc = pyro.param("loc", torch.tensor([0.0, 5e5, 1e6]))
        scale = pyro.param("scale", torch.full((3,), 5e5 / 3), constraint=POSITIVE)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    seen: list[Tensor] = []
    pyro.clear_param_store()
    EM(model, tol=0, max_steps=4, callback=lambda state: seen.append(state.params["scale"])).fit(x)
    pyro.clear_param_store()
    em = EM(model)
    for scale in seen:
        em.step(x)
        close(em.params["scale"], scale)


@pytest.mark.parametrize("edge", [0.0, 1e-17, 1e-14, 1e-9])
def test_a_start_on_the_boundary_keeps_its_closed_form(edge: float) -> None:
    """Entries next to nothing and next to one are not taken for each other: a fit may start where another ended."""

    def model(x: Tensor, y: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=SIMPLEX)
        probs = pyro.param("probs", torch.tensor([edge, 0.6]), constraint=UNIT)
        rows = torch.tensor([[edge, 1 - edge, 0.0], [0.2, 0.5, 0.3]])
        table = pyro.param("table", rows, constraint=SIMPLEX)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]), obs=x)
            pyro.sample("y", dist.Categorical(table[z]), obs=y)

    x = (torch.rand(400, generator=generator()) < 0.4).double()
    y = torch.randint(3, (400,), generator=generator(1))
    pyro.clear_param_store()
    fit = EM(model, m_step={"probs": "closed", "table": "closed"}, max_steps=50).fit(x, y)
    assert not any("withdrawn" in note for note in fit.notes)


@pytest.mark.parametrize("gap", [1e6, 1e8, 1e10])
@pytest.mark.parametrize("form", ["univariate", "full", "diagonal"])
def test_clusters_far_apart_are_no_collapse(form: str, gap: float) -> None:
    """A scale of one beside a spread of a billion is that of a cluster; of one whose values are equal it is none."""
    x = torch.randn(60, 2, generator=generator(3), dtype=torch.float64)
    x[30:] += gap
    data = (x[:, 0], 2) if form == "univariate" else (x, 2)
    model = getattr(gaussian_mixture, form)
    pyro.clear_param_store()
    fit = EM(model).fit(*data)
    assert fit.converged, str(fit)
    own = x.unflatten(0, (2, 30)).var(1, correction=0).sum(-1)  # of a rotation the trace
    if form == "full":
        scale = fit.params["scale_tril"].square().sum((-1, -2))
    else:
        scale = fit.params["scale"].square() if form == "univariate" else fit.params["scale"].square().sum(-1)
        own = own if form == "diagonal" else x[:, 0].unflatten(0, (2, 30)).var(1, correction=0)
    close(scale.sort().values, own.sort().values, 1e-5)
    x[30:] = gap
    pyro.clear_param_store()
    assert EM(model).fit(*data).outcome == "degenerate"
