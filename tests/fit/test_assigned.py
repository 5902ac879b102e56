"""Classification EM and stochastic EM: rows that are in one state each, the best one or a drawn one."""

from collections.abc import Callable
from itertools import pairwise, product
from math import log, pi
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import factor_analysis, gaussian_mixture, hidden_markov, poisson_mixture
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from programs.loops import stored
from pyro import poutine
from torch import Tensor, tensor

from em_pyro import EM, ObjectiveError, ParameterError, PlanError
from em_pyro.fit.assigned import states

FAR = 1e-3


def k_means(x: Tensor, K: int = 3) -> None:
    """Equal weights and unit scales: all that is left of a mixture are its centres."""
    loc = pyro.param("loc", lambda: x[:K].clone())
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.full((K,), 1 / K)))
        pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)


def lloyd(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centres, then means of their rows, until nothing moves; and the sum of squares."""
    while True:
        nearest = torch.cdist(x, centres).argmin(-1)
        new = torch.stack([x[nearest == k].mean(0) for k in range(len(centres))])
        if torch.equal(new, centres):
            return centres, ((x - centres[nearest]) ** 2).sum()
        centres = new


def inertia(objective: float, x: Tensor, K: int) -> float:
    """What is left of a classification log-likelihood of k-means."""
    return -2 * (objective + len(x) * log(K) + x.numel() / 2 * log(2 * pi))


def test_k_means_is_the_limit() -> None:
    """Centres and sum of squares are those of Lloyd's iteration from the same start."""
    x = gaussian_mixture.simulate(90, 2, 3)
    fit = EM(k_means, e_step="hard").fit(x)
    centres, squares = lloyd(x, x[:3].clone())
    assert fit.outcome == "settled"
    assert fit.converged
    assert distance(fit.params["loc"], centres) < IDENTITY
    assert distance(inertia(fit.objective, x, 3), squares) < IDENTITY
    soft = EM(k_means, starts={"loc": x[:3]}).fit(x)
    assert distance(soft.params["loc"], centres) > FAR


def test_k_means_is_scikit_learns() -> None:
    """Inertia and centres from the same start."""
    cluster = pytest.importorskip("sklearn.cluster")
    x = gaussian_mixture.simulate(90, 2, 3)
    theirs = cluster.KMeans(3, init=x[:3].numpy(), n_init=1, tol=0).fit(x.numpy())
    fit = EM(k_means, e_step="hard").fit(x)
    assert distance(inertia(fit.objective, x, 3), theirs.inertia_) < IDENTITY
    assert distance(fit.params["loc"], torch.as_tensor(theirs.cluster_centers_)) < IDENTITY


def log_joint(model: Callable[..., None], args: tuple[Any, ...], params: dict[str, Tensor], **states: Tensor) -> float:
    """The log-density of data and states, by Pyro itself."""
    fixed = poutine.condition(poutine.substitute(model, params), states)  # type: ignore[attr-defined]
    return float(poutine.trace(fixed).get_trace(*args).log_prob_sum())


MODELS: dict[str, tuple[Callable[..., None], Callable[[], tuple[Any, ...]]]] = {
    "mixture": (gaussian_mixture.full, lambda: (gaussian_mixture.simulate(60), 2)),
    "counts": (poisson_mixture.poisson_mixture, lambda: (poisson_mixture.simulate(200),)),
    "chain": (hidden_markov.poisson, lambda: (torch.poisson(tensor([2.0, 9.0]).repeat_interleave(4)).repeat(3, 1),)),
    "lengths": (
        hidden_markov.gaussian,
        lambda: (tensor([0.0, 4.0]).repeat_interleave(3).repeat(3, 1) + torch.randn(3, 6), tensor([6, 4, 5])),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_objective_is_that_of_data_and_states(name: str) -> None:
    """By the model itself, at the states of the posterior's mode; it never falls on the way; the evidence is apart."""
    model, data = MODELS[name]
    args = data()
    fit = EM(model, e_step="hard").fit(*args)
    assert fit.outcome == "settled"
    assert all(b >= a - IDENTITY * abs(a) for a, b in pairwise(fit.path))
    assert fit.path[-1] > fit.path[0] + FAR
    states = fit.posterior.mode()
    assert distance(fit.objective, log_joint(model, args, fit.params, **states)) < IDENTITY
    assert distance(fit.log_likelihood, fit.posterior.log_evidence) < IDENTITY
    assert fit.objective < fit.log_likelihood


def test_paths_of_a_chain_are_the_best_of_all() -> None:
    """Of all paths one by one, at the start: Viterbi's, and its maximum."""
    y = tensor([[1.0, 8.0, 2.0, 9.0, 7.0, 0.0]])
    start = {"initial": tensor([0.6, 0.4]), "transition": tensor([[0.7, 0.3], [0.4, 0.6]]), "rate": tensor([2.0, 6.0])}
    fit = EM(hidden_markov.poisson, e_step="hard", starts=start, tol=0, max_steps=0).fit(y)
    every = [
        log_joint(hidden_markov.poisson, (y,), start, **{f"state_{t}": tensor([k]) for t, k in enumerate(path)})
        for path in product((0, 1), repeat=6)
    ]
    assert distance(fit.path[0], max(every)) < IDENTITY


def test_row_weights_count() -> None:
    """Rows with a weight are as many rows."""

    def weighted(x: Tensor, counts: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 5.0]))
        with pyro.plate("rows", len(x)), poutine.scale(scale=counts):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x, counts = tensor([0.0, 1.0, 4.0, 7.0]), tensor([3.0, 1.0, 2.0, 1.0])
    once = EM(weighted, e_step="hard").fit(x, counts)
    pyro.clear_param_store()
    each = EM(weighted, e_step="hard").fit(x.repeat_interleave(counts.long()), torch.ones(7))
    assert distance(once.objective, each.objective) < IDENTITY
    assert distance(once.params["loc"], tensor([0.25, 5.0])) < IDENTITY


# ---- drawn -----------------------------------------------------------------------------------------------------------


def test_draws_are_averaged_around_the_maximum() -> None:
    """Near that of EM, by a seed, and never said to have converged."""
    x = gaussian_mixture.simulate(400, 2, 2)
    soft = EM(gaussian_mixture.full).fit(x)
    pyro.clear_param_store()

    def sampled(seed: int) -> Any:
        pyro.clear_param_store()
        return EM(gaussian_mixture.full, e_step="sampled", max_steps=40, seed=seed).fit(x)

    fit = sampled(0)
    assert fit.outcome == "averaged"
    assert not fit.converged
    assert fit.gap == float("inf")
    assert fit.num_steps == 40
    assert distance(fit.params["loc"], soft.params["loc"]) < 0.05
    assert soft.log_likelihood - 1 < fit.log_likelihood < soft.log_likelihood
    assert distance(fit.objective, fit.log_likelihood) < IDENTITY
    assert max(fit.path[:-1]) < soft.log_likelihood
    assert any(b < a for a, b in pairwise(fit.path)), "it wanders"
    again, other = sampled(0), sampled(1)
    assert torch.equal(again.params["loc"], fit.params["loc"])
    assert not torch.equal(other.params["loc"], fit.params["loc"])


def test_a_chain_is_sampled() -> None:
    """States drawn together, forwards and backwards."""
    model, data = MODELS["chain"]
    args = data()
    soft = EM(model).fit(*args)
    fit = EM(model, e_step="sampled", max_steps=30).fit(*args)
    assert fit.outcome == "averaged"
    assert soft.log_likelihood - 2 < fit.log_likelihood < soft.log_likelihood + IDENTITY


# ---- ends and refusals -----------------------------------------------------------------------------------------------


def test_every_start_is_followed_and_watched() -> None:
    """The best of several; the cap, the callback and the tolerance do what they do in EM; the store has the values."""
    x = gaussian_mixture.simulate(90, 2, 3)
    fit = EM(gaussian_mixture.full, e_step="hard", starts=4).fit(x, 3)
    assert fit.objective == max(run.objective for run in fit.starts)
    assert "did not converge" not in str(fit)
    assert stored()
    pyro.clear_param_store()
    assert EM(k_means, e_step="hard", max_steps=1).fit(x).outcome == "step limit"
    pyro.clear_param_store()
    assert EM(k_means, e_step="hard", tol=0, max_steps=30).fit(x).num_steps == 30
    pyro.clear_param_store()
    seen = list[int]()
    stop = EM(k_means, e_step="hard", callback=lambda state: seen.append(state.step) or state.step == 2).fit(x)
    assert stop.outcome == "stopped"
    assert seen == [1, 2]


def test_a_state_without_rows_is_named() -> None:
    """A centre that no row is nearest to stays where it is."""
    x = torch.cat([torch.zeros(5, 2), torch.ones(5, 2)])
    fit = EM(k_means, e_step="hard", starts={"loc": tensor([[0.0, 0.0], [1.0, 1.0], [99.0, 99.0]])}).fit(x)
    assert any('state 2 of "z" has no row' in note for note in fit.notes)
    assert distance(fit.params["loc"][2], tensor([99.0, 99.0])) < IDENTITY


REFUSED: dict[str, tuple[Callable[..., None], Callable[[], tuple[Any, ...]], str]] = {
    "continuous": (factor_analysis.factor_analysis, lambda: (torch.randn(9, 3),), "continuous and integrated"),
    "no latents": (lambda x: pyro.sample("x", dist.Normal(pyro.param("m", tensor(0.0)), 1.0), obs=x),
                   lambda: (tensor(1.0),), "without"),
}  # fmt: skip


def test_states_in_place_of_weights_have_no_standard_errors() -> None:
    """They would be those of a maximum of the likelihood, elsewhere; the summary says so in a line."""
    fit = EM(k_means, e_step="hard").fit(gaussian_mixture.simulate(30, 2, 3))
    with pytest.raises(ParameterError, match="expected a maximum of the likelihood, got a fit that ended as .settled"):
        fit.information()
    assert "no standard errors: Fit.information: expected a maximum" in str(fit.summary())


@pytest.mark.parametrize("how", ["hard", "sampled"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_states_is_refused(name: str, how: str) -> None:
    """By the latent or the site."""
    model, data, said = REFUSED[name]
    with pytest.raises(PlanError, match=said):
        EM(model, e_step=how).fit(*data())


@pytest.mark.parametrize(
    "options", [{"e_step": "firm"}, {"e_step": "hard", "acceleration": "squarem"}, {"e_step": None}]
)
def test_unknown_choices_are_refused(options: dict[str, Any]) -> None:
    """At once; and a single step of EM is none of theirs."""
    with pytest.raises(ParameterError, match="expected"):
        EM(k_means, **options)
    with pytest.raises(ParameterError, match="EM.step"):
        EM(k_means, e_step="hard").step(gaussian_mixture.simulate(9))


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that are drawn where the best are wanted let the objective fall."""
    x = gaussian_mixture.simulate(90, 2, 3)
    real, seen = states.assigned, list[int]()

    def drawn(engine: Any, bound: Any, generator: Any = None) -> Any:
        seen.append(len(seen))
        return real(engine, bound, torch.Generator().manual_seed(seen[-1]))

    monkeypatch.setattr(states, "assigned", drawn)
    with pytest.raises(ObjectiveError, match="classification log-likelihood to rise"):
        EM(gaussian_mixture.full, e_step="hard", tol=0, max_steps=50).fit(x, 3)
