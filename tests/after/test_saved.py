"""Files of fits: what they hold, what a fit that was read from one does, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import factor_analysis, gaussian_mixture, hidden_markov
from oracles.agreement import close
from oracles.engines import distance
from oracles.fits import alike
from oracles.tolerances import IDENTITY
from programs.loops import equal, mixture, points, stored
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, ModelError, ParameterError, load

NAMES = (
    "gaussian_mixture",
    "ModuleMixture",
    "DecoratedModule",
    "RegisteredLinear",
    "hmm_ragged",
    "beta_coins",
    "mixed_precision",
    "topics",
)


def of(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a program and its arguments."""
    if name == "factors":
        return factor_analysis.factor_analysis, factor_analysis.simulate(n=40, seed=0)
    case = build(name)
    return case.model, case.args


@pytest.mark.parametrize("name", [*NAMES, "factors"])
def test_a_fit_comes_back(name: str, tmp_path: Path) -> None:
    """As it was; with its model posteriors of rows, with its data all that it did. The store is not touched."""
    model, args = of(name)
    fit, path = EM(model, max_steps=8, acceleration="squarem").fit(*args), tmp_path / "fit.pt"
    fit.save(path)
    assert isinstance(torch.load(path, weights_only=True), dict)
    before = stored()
    plain, shown, whole = load(path), load(path, model), load(path, model, args)
    assert equal(stored(), before)
    for loaded in (plain, shown, whole):
        assert alike(loaded, fit)
        assert [*loaded.starts] == [*fit.starts]
        assert loaded.criteria() == fit.criteria()
        assert loaded.num_parameters == fit.num_parameters
        loaded.save(tmp_path / "again.pt")
        assert alike(load(tmp_path / "again.pt"), fit)
    assert distance(whole.posterior.log_evidence, fit.posterior.log_evidence) < IDENTITY
    if name != "topics":  # which has an entry for each row
        expected = fit.posterior_on(*args).log_evidence
        assert distance(shown.posterior_on(*args).log_evidence, expected) < IDENTITY
        assert distance(whole.posterior_on(*args).log_evidence, expected) < IDENTITY
    traces = [pyro.poutine.trace(one.model).get_trace(*args) for one in (fit, shown, whole)]
    for trace in traces:
        for site in ("loc", "weights"):
            if site in trace.nodes and trace.nodes[site]["type"] == "param":
                assert distance(trace.nodes[site]["value"], fit.params[site]) < IDENTITY


def test_a_single_new_row_needs_no_initialiser(tmp_path: Path) -> None:
    """The shipped mixture starts from the spread of its data, of which one row has none."""
    x = points(n=30).unsqueeze(-1)
    fit, path = EM(gaussian_mixture.full, max_steps=5).fit(x, 2), tmp_path / "fit.pt"
    fit.save(path)
    row = load(path, gaussian_mixture.full).posterior_on(x[:1], 2)
    assert distance(row.log_evidence, fit.posterior_on(x[:1], 2).log_evidence) < IDENTITY


def test_what_the_fit_was_told_is_kept(tmp_path: Path) -> None:
    """Choices of M-steps, the density of priors and what is done with continuous latents plan the program again."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        b = pyro.param("b", tensor(0.3))
        with pyro.plate("row", len(x)):
            u = pyro.sample("u", dist.Normal(b, 1.0))
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(u + z, 1.0), obs=x)

    x, path = points(n=12), tmp_path / "fit.pt"
    em = EM(model, max_steps=3, prior_density="unconstrained", continuous={"u": "maximise"}, m_step={"b": "fixed"})
    fit = em.fit(x)
    fit.save(path)
    again = load(path, model, (x,))
    assert again.prepared is not None
    assert again.prepared.plan.free == ("weights", "u")
    assert again.prior_density == "unconstrained"
    assert distance(again.posterior.log_evidence, fit.log_likelihood) < IDENTITY
    with pytest.raises(ParameterError, match="an entry for each"):
        load(path, model).posterior_on(x)


def test_a_model_without_arguments(tmp_path: Path) -> None:
    """An empty tuple says that the data are the model's own."""
    x = points()

    def model() -> None:
        mixture(x)

    fit, path = EM(model, max_steps=4).fit(), tmp_path / "fit.pt"
    fit.save(path)
    assert distance(load(path, model, ()).posterior.log_evidence, fit.log_likelihood) < IDENTITY
    assert distance(load(path, model, kwargs={}).posterior.log_evidence, fit.log_likelihood) < IDENTITY


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """A fit without its data says how to give them; what does not fit is refused by name."""
    x, path = points(), tmp_path / "fit.pt"
    EM(mixture, max_steps=4).fit(x).save(path)
    for ask in (lambda fit: fit.posterior, lambda fit: fit.information(), lambda fit: fit.reordered("z", "loc")):
        with pytest.raises(ParameterError, match=r"em_pyro\.load\(path, model, args="):
            ask(load(path, mixture))
    with pytest.raises(ParameterError, match="expected the model and the data"):
        load(path).posterior_on(x)
    with pytest.raises(ParameterError, match="got data alone"):
        load(path, args=(x,))
    with pytest.raises(ParameterError, match=r"args=\(x,\)"):
        load(path, mixture, args=x)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="callable"):
        load(path, 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="log-likelihood"):
        load(path, mixture, (x + 1e-3,))
    with pytest.raises(DataError, match="log-likelihood"):
        load(path, mixture, (x[1:],))
    with pytest.raises((ParameterError, ModelError), match="expected"):
        load(path, mixture, (x, 3))
    with pytest.raises(ParameterError, match="expected one of the fitted parameters"):
        load(path, build("binomial_coins").model, build("binomial_coins").args)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pt")


def test_a_model_that_lacks_a_parameter_is_another(tmp_path: Path) -> None:
    """Also where all that it has is there."""

    def fewer(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
        loc = pyro.param("loc", tensor([0.0, 1.0]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    EM(mixture, max_steps=4).fit(points()).save(tmp_path / "fit.pt")
    with pytest.raises(ParameterError, match='"scale": expected the model that was fitted'):
        load(tmp_path / "fit.pt", fewer, (points(),))


def test_pickles_go_on_working(tmp_path: Path) -> None:
    """A fit that was pickled can be written to a file, which plans as the fit did."""
    x = points()
    fit = EM(mixture, max_steps=4, m_step={"loc": "fixed"}).fit(x)
    again = pickle.loads(pickle.dumps(fit))
    again.save(tmp_path / "fit.pt")
    assert alike(load(tmp_path / "fit.pt"), fit)
    whole = load(tmp_path / "fit.pt", mixture, (x,))
    assert whole.prepared is not None
    assert whole.prepared.plan.free == ("weights", "scale")


def test_other_lengths_of_a_chain(tmp_path: Path) -> None:
    """The steps of a loop are latents of their own: with the model alone a fit serves more of them, or fewer."""
    y, lengths = hidden_markov.simulate(N=4, T=5)
    fit = EM(hidden_markov.gaussian, max_steps=3).fit(y, lengths)
    fit.save(tmp_path / "fit.pt")
    loaded = load(tmp_path / "fit.pt", hidden_markov.gaussian)
    for steps in (3, 8):
        there = torch.cat([y, torch.zeros(4, 3)], 1)[:, :steps], lengths.clamp(max=steps)
        close(loaded.posterior_on(*there).log_evidence, fit.posterior_on(*there).log_evidence)
        last = f"state_{steps - 1}"
        close(loaded.posterior_on(*there).marginal(last), fit.posterior_on(*there).marginal(last))

    def more(y: Tensor, lengths: Tensor) -> None:
        pyro.sample("more", dist.Bernoulli(tensor(0.5)))
        hidden_markov.gaussian(y, lengths)

    with pytest.raises(ModelError, match="expected latents with the states"):
        load(tmp_path / "fit.pt", more).posterior_on(y, lengths)
