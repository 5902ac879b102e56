"""Components in another order: everything that a latent indexes follows, and what is no symmetry is refused."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from programs.loops import equal, mixture, points, stored
from programs.networks import Gate, lines
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit, ParameterError

ORDERS = {2: (1, 0), 3: (2, 0, 1)}

SYMMETRIC: dict[str, tuple[str, tuple[tuple[str, int], ...]]] = {
    "gaussian_mixture": ("z", (("weights", 0), ("loc", 0), ("scale", 0))),
    "multivariate_mixture": ("z", (("weights", 0), ("loc", 0), ("scale_tril", 0))),
    "gaussian_mixture_tied": ("z", (("weights", 0), ("loc", 0))),
    "markov_chain": ("x", (("initial", 0), ("transition", 0), ("transition", 1), ("loc", 0), ("scale", 0))),
    "chain_by_loop": ("x_0", (("initial", 0), ("transition", 0), ("transition", 1), ("loc", 0))),
    "factorial_chain": (
        "w",  # with the other chain, with which it shares the initial probabilities
        (("initial", 0), *((name, axis) for name in ("transition", "other", "table") for axis in (0, 1))),
    ),
    "hmm_ragged": ("y", (("initial", 0), ("transition", 0), ("transition", 1), ("loc", 0), ("scale", 0))),
    "hmm_stationary": ("y", (("transition", 0), ("transition", 1), ("loc", 0))),
    "two_latents": ("b", (("second", 1), ("loc", 1))),
    "global_latent": ("z", (("weights", 1), ("loc", 0))),
    "hmm_mixture": ("z", (("weights", 0), ("transition", 0), ("loc", 0))),
    "mixture_of_regressions": ("z", (("weights", 0), ("b", 0), ("scale", 0))),
    "RegisteredLinear": ("z", (("linear$$$weight", 0), ("linear$$$bias", 0), ("weights", 0))),
    "structural_zeros": ("z", (("logits", 0), ("loc", 0))),
    "mixed_precision": ("z", (("weights", 0), ("loc", 0))),
    "latent_class": ("z", (("weights", 0), ("p", 0))),
    "far_dimension": ("z", (("weights", 0), ("loc", 1))),
    "binomial_coins": ("coin", (("bias", 0),)),
    "hierarchical_means": ("z", (("weights", 0), ("loc", 0))),
}
"""Programs with a latent whose states can change places, and the axes that it indexes."""


def fitted(name: str) -> tuple[Fit, tuple[Any, ...]]:
    """Fit a program of the registry a little."""
    case = build(name)
    return EM(case.model, max_steps=5).fit(*case.args), case.args


@pytest.mark.parametrize("name", SYMMETRIC)
def test_what_a_latent_indexes_follows(name: str) -> None:
    """By brute force over the axes; the objective, the posterior and the store are those of the other labels."""
    site, axes = SYMMETRIC[name]
    fit, _ = fitted(name)
    size = fit.params[axes[0][0]].shape[axes[0][1]]
    order = ORDERS[size]
    other = fit.reordered(site, order)
    expected = fit.params
    for parameter, axis in axes:
        expected[parameter] = expected[parameter].index_select(axis, tensor(order))
    assert equal(other.params, expected)
    assert other.log_likelihood == fit.log_likelihood
    slack = SOLVERS if name == "mixed_precision" else IDENTITY
    latents = [n for n in fit.posterior.engine.program.latents if n == site or n.startswith(f"{site}_")]
    for latent in latents:
        one, two = fit.posterior.marginal(latent), other.posterior.marginal(latent)
        assert distance(one[..., list(order)], two) < slack
    assert distance(other.posterior.log_evidence, fit.posterior.log_evidence) < slack
    values = {n: pyro.param(n) for n in pyro.get_param_store()}
    assert all(distance(values[n].detach(), other.params[n]) < SOLVERS for n in values if n in other.params)
    assert "put in order" in other.notes[-1]
    assert ", ".join(map(str, order)) in other.notes[-1]
    inverse = [order.index(k) for k in range(size)]
    assert equal(other.reordered(site, inverse).params, fit.params)


REFUSED: dict[str, tuple[str, str]] = {
    "second_order_chain": ("x_0", "x_1"),
    "left_to_right_chain": ("x_0", "x_0"),
    "loop_that_is_observed_twice": ("a_0", "b_0"),
    "partly_labelled": ("z", "labels"),
    "partly_labelled_chain": ("x_0", "labels"),
    "mask_by_latent": ("z", "z"),
    "bernoulli_latent": ("z", "told apart by constants"),
    "binomial_latent": ("z", "told apart by constants"),
    "three_way_table": ("a", "density of site"),
    "beta_coins": ("coin", "weights"),
    "three_experts": ("z", "density of site"),
    "transitions_with_a_covariate": ("x_0", "x_0"),
    "shared_parameter": ("z", "density of site"),
}
"""Programs with states that constants, labels, priors or the way they are written tell apart, and what is named."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_symmetry_is_refused(name: str) -> None:
    """By name; nothing has changed."""
    fit, _ = fitted(name)
    site, said = REFUSED[name]
    states = fit.posterior.engine.program.latents[site].size
    before, values = stored(), fit.params
    with pytest.raises(ParameterError, match=said) as caught:
        fit.reordered(site, list(range(states))[::-1])
    assert str(caught.value).startswith("Fit.reordered: expected")
    assert equal(stored(), before)
    assert equal(fit.params, values)


def test_priors_of_equal_states_are_no_hindrance() -> None:
    """A prior that treats all components alike stays; one that does not is named."""

    def model(x: Tensor, sizes: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(sizes))
        with pyro.plate("component", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    fit = EM(model).fit(points(), tensor([2.0, 2.0]))
    other = fit.reordered("z", (1, 0))
    assert torch.equal(other.params["loc"], fit.params["loc"].flip(0))
    assert torch.equal(other.params["weights"], fit.params["weights"].flip(0))
    uneven = EM(model).fit(points(), tensor([2.0, 3.0]))
    with pytest.raises(ParameterError, match='density of site "weights"'):
        uneven.reordered("z", (1, 0))


def test_by_a_parameter() -> None:
    """Ascending; a matrix by its first column; equal values in the order they have."""
    starts = {"loc": tensor([3.0, -1.0])}
    fit = EM(mixture, starts=starts).fit(points())
    assert fit.params["loc"][0] > fit.params["loc"][1]
    other = fit.reordered("z", by="loc")
    assert torch.equal(other.params["loc"], fit.params["loc"].flip(0))
    assert other.reordered("z", by="loc").notes[-1].endswith("they were 0, 1")
    assert 'by "loc"' in other.notes[-1]

    def rows(x: Tensor) -> None:
        b = pyro.param("b", tensor([[2.0, 0.0], [1.0, 5.0], [1.0, -5.0]]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(b[z], 1.0).to_event(1), obs=x)

    pyro.clear_param_store()
    fit = EM(rows, max_steps=0, tol=0).fit(torch.randn(8, 2))
    assert torch.equal(fit.reordered("z", by="b").params["b"], fit.params["b"][[1, 2, 0]])


def test_a_store_with_other_values_stays() -> None:
    """The values of a later fit are not those of this one."""
    fit = EM(mixture).fit(points())
    EM(mixture, max_steps=3).fit(points(seed=1))
    before = stored()
    fit.reordered("z", (1, 0))
    assert equal(stored(), before)


def test_a_network_follows() -> None:
    """The last layer of a gate has a row for each state: its weights and biases are axes as any other."""
    fit = EM(Gate(), max_steps=3).fit(*lines())
    other = fit.reordered("z", (1, 0))
    for name in ("gate$$$2.weight", "gate$$$2.bias", "loc"):
        assert torch.equal(other.params[name], fit.params[name].flip(0))
    assert torch.equal(other.params["gate$$$0.weight"], fit.params["gate$$$0.weight"])
    assert distance(other.posterior.marginal("z").flip(-1), fit.posterior.marginal("z")) < IDENTITY


@pytest.mark.parametrize(
    ("site", "by", "said"),
    [
        ("q", (0, 1), r"discrete latents \['z'\]"),
        ("z", (0, 0), "permutation of 0, ..., 1"),
        ("z", (0, 1, 2), "permutation of 0, ..., 1"),
        ("z", (0.5, 1), "permutation of 0, ..., 1"),
        ("z", 3, "permutation of 0, ..., 1"),
        ("z", "nothing", "one of the parameters"),
    ],
)
def test_what_cannot_be_asked(site: str, by: Any, said: str) -> None:
    """Names and permutations that are none."""
    with pytest.raises(ParameterError, match=said):
        EM(mixture, max_steps=2).fit(points()).reordered(site, by)


def test_a_matrix_of_transitions_gives_no_order() -> None:
    """It is indexed twice."""
    fit, _ = fitted("chain_by_loop")
    with pytest.raises(ParameterError, match="indexes once"):
        fit.reordered("x_0", "transition")


def test_ordered_values_stay_in_order() -> None:
    """A constraint that holds the components in order tells them apart."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 3.0]), constraint=dist.constraints.ordered_vector)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(pyro.param("w", torch.ones(2) / 2, constraint=constraints.simplex)))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    with pytest.raises(ParameterError, match="tells them apart"):
        EM(model, max_steps=3).fit(points()).reordered("z", (1, 0))
