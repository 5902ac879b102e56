"""Classification and stochastic EM where states are hidden in a site, against its loop and against brute force."""

from functools import partial
from itertools import pairwise, product
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import discrete_hmm
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.chains import paths

numbers = partial(torch.tensor, dtype=torch.float64)
START = {
    "initial": numbers([0.6, 0.4]),
    "transition": numbers([[0.7, 0.3], [0.4, 0.6]]),
    "rate": numbers([2.0, 6.0]),
}
Y = numbers([[1.0, 3.0, 9.0, 7.0, 2.0], [2.0, 8.0, 5.0, 0.0, 1.0], [6.0, 1.0, 9.0, 4.0, 8.0]])
LENGTHS = tensor([5, 3, 2])
ARGS = {"whole": (Y,), "lengths": (Y, LENGTHS)}


def loop(y: Tensor, lengths: Tensor | None = None) -> None:
    """`discrete_hmm.poisson` written out, with the state of which nothing is seen before the first step."""
    initial = pyro.param("initial", START["initial"], constraint=constraints.simplex)
    transition = pyro.param("transition", START["transition"], constraint=constraints.simplex)
    rate = pyro.param("rate", START["rate"], constraint=constraints.positive)
    lengths = torch.full((len(y),), y.shape[1]) if lengths is None else lengths
    with pyro.plate("sequence", len(y)):
        state = pyro.sample("before", dist.Categorical(initial), infer={"enumerate": "parallel"})
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=lengths > t):
                state = pyro.sample(f"state_{t}", dist.Categorical(Vindex(transition)[state]))
                pyro.sample(f"y_{t}", dist.Poisson(rate[state]), obs=y[:, t])


def log_joint(params: dict[str, Tensor], y: Tensor, path: tuple[int, ...]) -> Tensor:
    """Of one sequence and its states, the one before the first step in front."""
    total = params["initial"][path[0]].log()
    for t, (before, state) in enumerate(pairwise(path)):
        total = total + params["transition"][before, state].log()
        total = total + dist.Poisson(params["rate"][state]).log_prob(y[t])
    return total


def best(params: dict[str, Tensor], y: Tensor, lengths: Tensor | None = None) -> float:
    """The largest of all paths, of every sequence up to its end."""
    ends = [y.shape[1]] * len(y) if lengths is None else lengths.tolist()
    every = [
        max(log_joint(params, row, path) for path in product((0, 1), repeat=n + 1))
        for row, n in zip(y, ends, strict=True)
    ]
    return float(sum(every))


@pytest.mark.parametrize("name", ARGS)
def test_the_objective_is_that_of_the_best_paths(name: str) -> None:
    """By brute force over all paths, at the start and at the end, base measures included; it never falls."""
    args = ARGS[name]
    fit = EM(discrete_hmm.poisson, e_step="hard", starts=START).fit(*args)
    assert fit.outcome == "settled"
    assert fit.path[-1] > fit.path[0] + 0.1
    assert all(b >= a - IDENTITY * abs(a) for a, b in pairwise(fit.path))
    assert distance(fit.path[0], best(START, *args)) < IDENTITY
    assert distance(fit.objective, best(fit.params, *args)) < IDENTITY


def test_what_comes_after_the_end_does_not_choose_the_path() -> None:
    """A sequence of one step is in the state that fits it, though another would be left less readily afterwards."""
    start = START | {"transition": numbers([[0.55, 0.45], [0.02, 0.98]])}
    args = numbers([[3.0, 0.0, 0.0, 0.0, 0.0]]), tensor([1])
    fit = EM(discrete_hmm.poisson, e_step="hard", starts=start, tol=0, max_steps=0).fit(*args)
    assert distance(fit.path[0], best(start, *args)) < IDENTITY


@pytest.mark.parametrize("name", ARGS)
def test_the_site_is_its_loop(name: str) -> None:
    """Values and path are those of the model with its states as latents."""
    args = ARGS[name]
    hidden = EM(discrete_hmm.poisson, e_step="hard", starts=START).fit(*args)
    pyro.clear_param_store()
    written = EM(loop, e_step="hard").fit(*args)
    assert distance(torch.tensor(hidden.path), torch.tensor(written.path)) < IDENTITY
    for name, value in written.params.items():
        assert distance(hidden.params[name], value) < IDENTITY


def test_row_weights_count() -> None:
    """A sequence of weight two is two sequences."""

    def weighted(y: Tensor, counts: Tensor) -> None:
        with poutine.scale(scale=counts):
            discrete_hmm.poisson(y)

    counts = tensor([2.0, 1.0, 3.0])
    once = EM(weighted, e_step="hard", starts=START).fit(Y, counts)
    pyro.clear_param_store()
    each = EM(discrete_hmm.poisson, e_step="hard", starts=START).fit(Y.repeat_interleave(counts.long(), 0))
    assert distance(torch.tensor(once.path), torch.tensor(each.path)) < IDENTITY
    for name, value in each.params.items():
        assert distance(once.params[name], value) < IDENTITY


def test_which_kind_of_sequence_it_is_and_its_path_are_found_together() -> None:
    """A mixture of chains: a discrete latent around the site, by brute force over both."""

    def kinds(y: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        rate = pyro.param("rate", tensor([[2.0, 6.0], [1.0, 9.0]]), constraint=constraints.positive)
        with pyro.plate("sequence", len(y)):
            kind = pyro.sample("kind", dist.Categorical(weights))
            chain = dist.DiscreteHMM(
                START["initial"].log(), START["transition"].log(), dist.Poisson(rate[kind].unsqueeze(-2)), duration=5
            )
            pyro.sample("y", chain, obs=y)

    fit = EM(kinds, e_step="hard").fit(Y)
    for at, params in (
        (0, {"weights": tensor([0.5, 0.5]), "rate": tensor([[2.0, 6.0], [1.0, 9.0]])}),
        (-1, fit.params),
    ):
        of = [START | {"rate": rate} for rate in params["rate"]]
        want = sum(max(params["weights"][k].log() + best(of[k], row[None]) for k in range(2)) for row in Y)
        assert distance(fit.path[at], want) < IDENTITY


@pytest.mark.parametrize("name", ARGS)
def test_paths_are_drawn(name: str) -> None:
    """The average of stochastic EM comes near the maximum of EM."""
    y = _sequences()
    args = (y,) if name == "whole" else (y, torch.arange(len(y)) % 6 + 10)
    soft = EM(discrete_hmm.poisson, starts=START).fit(*args)
    pyro.clear_param_store()
    fit = EM(discrete_hmm.poisson, e_step="sampled", starts=START, max_steps=40).fit(*args)
    assert fit.outcome == "averaged"
    assert soft.log_likelihood - 1 < fit.log_likelihood < soft.log_likelihood + IDENTITY
    assert distance(fit.params["rate"], soft.params["rate"]) < 0.05


def _sequences() -> Tensor:
    """Thirty, of fifteen steps, by two rates."""
    generator = torch.Generator().manual_seed(0)
    moves = torch.rand(30, 15, generator=generator) < 0.3
    states = moves.long().cumsum(1) % 2
    return torch.poisson(tensor([2.0, 9.0])[states], generator=generator)


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another state before the first step, the initial law is another than that of the best paths."""
    right = EM(discrete_hmm.poisson, e_step="hard", starts=START, tol=0, max_steps=1).fit(Y).params["initial"]
    real = paths.entered_path

    def other(laid: Any, counted: Any, generator: Any = None) -> Any:
        total, path = real(laid, counted, generator)
        return total, torch.cat([1 - path[..., :1], path[..., 1:]], -1)

    monkeypatch.setattr(paths, "entered_path", other)
    pyro.clear_param_store()
    wrong = EM(discrete_hmm.poisson, e_step="hard", starts=START, tol=0, max_steps=1).fit(Y).params["initial"]
    assert distance(right, wrong) > 0.1
