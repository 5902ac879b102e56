"""Two ways to write one likelihood: the models of the zoo against formulas, and against each other."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import (
    discrete_hmm,
    factorial_hidden_markov,
    genetic_linkage,
    heavy_tailed,
    hidden_markov,
    item_response,
    latent_classes,
    regressions,
    tomography,
    topics,
    transcripts,
    zero_inflated,
)
from oracles.agreement import close
from oracles.evidence import log_evidence, start
from oracles.tolerances import SOLVERS
from programs.zoo import simulated
from torch import Tensor


def direct(name: str, params: Mapping[str, Tensor], args: tuple[Any, ...]) -> Tensor:
    """Write down the log-likelihood of a mixture of the zoo by hand, with the rows of equal weight."""
    p = {"weights": torch.full((2,), 0.5), **params}
    laws: dict[str, Callable[[], dist.Distribution]] = {
        "coins": lambda: dist.Binomial(args[1][:, None], p["bias"]),
        "gaussian-univariate": lambda: dist.Normal(p["loc"], p["scale"]),
        "gaussian-two-groups": lambda: dist.Normal(p["loc"], p["scale"]),
        "gaussian-full": lambda: dist.MultivariateNormal(p["loc"], scale_tril=p["scale_tril"]),
        "gaussian-full-covariance": lambda: dist.MultivariateNormal(p["loc"], p["covariance"]),
        "gaussian-tied": lambda: dist.MultivariateNormal(p["loc"], scale_tril=p["scale_tril"]),
        "gaussian-diagonal": lambda: dist.Normal(p["loc"], p["scale"]).to_event(1),
        "gaussian-spherical": lambda: dist.Normal(p["loc"], p["scale"][:, None]).to_event(1),
        "bernoulli": lambda: dist.Bernoulli(p["probs"]).to_event(1),
        "poisson": lambda: dist.Poisson(p["rate"]),
        "negative-binomial": lambda: dist.NegativeBinomial(p["total_count"], p["probs"]),
        "gamma": lambda: dist.Gamma(p["concentration"], p["rate"]),
        "weibull": lambda: dist.Weibull(p["scale"], p["concentration"]),
        "inverse-gamma": lambda: dist.InverseGamma(p["concentration"], p["rate"]),
        "log-normal": lambda: dist.LogNormal(p["loc"], p["scale"]),
        "exponential": lambda: dist.Exponential(p["rate"]),
        "beta": lambda: dist.Beta(p["concentration1"], p["concentration0"]),
        "dirichlet": lambda: dist.Dirichlet(p["concentration"]),
        "laplace": lambda: dist.Laplace(p["loc"], p["scale"]),
        "student": lambda: dist.StudentT(p["df"], p["loc"], p["scale"]),
        "von-mises": lambda: dist.VonMises(p["loc"], p["concentration"]),
        "regression-linear": lambda: dist.Normal(args[0] @ p["coef"].T, p["scale"]),
        "regression-parallel": lambda: dist.Normal(args[0] @ p["slope"][:, None] + p["intercept"], p["scale"]),
        "regression-logistic": lambda: dist.Bernoulli(logits=args[0] @ p["coef"].T),
        "regression-poisson": lambda: dist.Poisson((args[0] @ p["coef"].T).exp()),
        "regression-experts": lambda: dist.Normal(args[0] @ p["coef"].T, p["scale"]),
    }
    law = laws[name]()
    y = args[1] if name.startswith("regression") else args[0]
    log_weights = p["weights"].log()
    if name == "regression-experts":
        log_weights = torch.nn.functional.pad(args[0] @ p["gate"].T, (1, 0)).log_softmax(-1)
    return (law.log_prob(y.unsqueeze(1)) + log_weights).logsumexp(-1).sum()


MIXTURES = [
    *("coins", "bernoulli", "poisson", "negative-binomial", "gamma", "weibull", "inverse-gamma", "log-normal"),
    *("exponential", "beta", "dirichlet", "laplace", "student", "von-mises"),
    *(f"gaussian-{form}" for form in ("univariate", "two-groups", "full", "full-covariance")),
    *(f"gaussian-{form}" for form in ("tied", "diagonal", "spherical")),
    *(f"regression-{form}" for form in ("linear", "parallel", "logistic", "poisson", "experts")),
]


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_is_the_sum_of_its_components(name: str) -> None:
    """The enumerated program has the likelihood written down by hand, at generic parameters."""
    model, args = simulated(name)
    moved = {key: value * (1 - 0.1 * torch.rand(value.shape)) for key, value in start(model, *args).items()}
    if "weights" in moved:
        moved["weights"] = torch.tensor([0.3, 0.7])
    close(log_evidence(model, *args, params=moved), direct(name, moved, args))


def test_zero_inflation_and_hurdle() -> None:
    """Two sites, each masked where the other speaks, are Pyro's own zero-inflated distribution; the hurdle by hand."""
    counts = zero_inflated.simulate()
    args, params = (counts,), {"rate": torch.tensor(2.2), "gate": torch.tensor(0.35), "positive": torch.tensor(0.6)}
    gate, rate, positive = params["gate"], params["rate"], params["positive"]
    want = dist.ZeroInflatedPoisson(rate, gate=gate).log_prob(counts).sum()
    close(log_evidence(zero_inflated.zero_inflated_poisson, *args, params=params), want)
    size = {"total_count": torch.tensor(3.5), "probs": torch.tensor(0.4)}
    law = dist.ZeroInflatedNegativeBinomial(size["total_count"], probs=size["probs"], gate=gate)
    got = log_evidence(zero_inflated.zero_inflated_negative_binomial, *args, params={**params, **size})
    close(got, law.log_prob(counts).sum())
    for model, count in (
        (zero_inflated.hurdle_poisson, dist.Poisson(rate)),
        (zero_inflated.hurdle_negative_binomial, dist.NegativeBinomial(size["total_count"], size["probs"])),
    ):
        truncated = count.log_prob(counts) - torch.log1p(-count.log_prob(torch.tensor(0.0)).exp())
        want = torch.where(counts > 0, positive.log() + truncated, (1 - positive).log()).sum()
        close(log_evidence(model, *args, params={**params, **size}), want)


def test_a_constant_offset_is_an_intercept() -> None:
    """A known part of the log rate moves the intercept by as much, and no further."""
    x, y = regressions.simulate(link="log")
    params = start(regressions.poisson, x, y)
    moved = {**params, "coef": params["coef"] - torch.tensor([0.7, 0.0])}
    got = log_evidence(regressions.poisson, x, y, 2, torch.full_like(y, 0.7), params=moved)
    close(got, log_evidence(regressions.poisson, x, y, params=params))


def test_known_background() -> None:
    """Two families in one mixture: a normal, and a uniform background that is known."""
    x, low, high = heavy_tailed.simulate()
    params = {"weight": torch.tensor(0.2), "loc": torch.tensor(2.8), "scale": torch.tensor(1.1)}
    normal = dist.Normal(params["loc"], params["scale"]).log_prob(x).exp()
    want = (0.8 * normal + 0.2 / (high - low)).log().sum()
    close(log_evidence(heavy_tailed.outliers, x, low, high, params=params), want)


def test_likelihoods_of_weighted_rows() -> None:
    """The rows of the topic, transcript and tomography models, by hand: here each counts once."""
    counts, K = topics.simulate()
    params = start(topics.plsa, counts, K)
    want = (params["share"] @ params["topics"])[counts > 0].log().sum()
    close(log_evidence(topics.plsa, counts, K), want)

    counts, compatible, lengths = transcripts.simulate()
    share = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])
    want = (compatible.double() @ (share / lengths))[counts > 0].log().sum()
    close(log_evidence(transcripts.transcripts, counts, compatible, lengths, params={"share": share}), want)

    counts, system = tomography.simulate()
    activity = torch.rand(system.shape[1])
    total = (system @ activity).sum()
    share = activity * system.sum(0) / total
    want = ((system @ activity) / total)[counts > 0].log().sum() + dist.Poisson(total).log_prob(counts.sum())
    got = log_evidence(tomography.tomography, counts, system, params={"share": share, "total": total})
    close(got, want)
    # With the weights: multinomial bins and a Poisson total are Shepp and Vardi's independent Poisson counts.
    multinomial = dist.Multinomial(int(counts.sum()), system @ activity / total).log_prob(counts)
    split = multinomial + dist.Poisson(total).log_prob(counts.sum())
    close(split, dist.Poisson(system @ activity).log_prob(counts).sum())


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_two_complete_data_models_of_linkage(p: float) -> None:
    """Five cells and two coins have one likelihood."""
    observed = genetic_linkage.simulate()
    cells = torch.tensor([0.5 + p / 4, (1 - p) / 4, (1 - p) / 4, p / 4])
    for model in (genetic_linkage.five_cells, genetic_linkage.two_coins):
        close(log_evidence(model, observed, params={"p": p}), cells[observed].log().sum())


def test_missing_answers_drop_out() -> None:
    """What stands where an answer is missing does not matter."""
    answers, K, categories, answered = latent_classes.simulate(missing=0.3)
    other = torch.where(answered, answers, 0)
    got = [log_evidence(latent_classes.latent_classes, values, K, categories, answered) for values in (answers, other)]
    assert got[0] == got[1]
    assert got[0] != log_evidence(latent_classes.latent_classes, answers, K, categories)


@pytest.mark.parametrize("family", ["gaussian", "poisson", "categorical"])
def test_ragged_sequences_add_up(family: str) -> None:
    """A padded batch is its sequences one by one, whatever the padding."""
    y, lengths = hidden_markov.simulate(N=3, T=8, family=family)
    model = getattr(hidden_markov, family)
    params = start(model, y, lengths)
    alone = [log_evidence(model, row[None, :n], params=params) for row, n in zip(y, lengths.tolist(), strict=True)]
    inside = torch.arange(y.shape[1]) < lengths[:, None]
    for padded in (y, torch.where(inside, y, torch.ones_like(y))):
        close(log_evidence(model, padded, lengths, params=params), sum(alone))


@pytest.mark.parametrize("family", ["gaussian", "poisson", "categorical"])
def test_one_site_is_the_loop_with_an_unseen_first_state(family: str) -> None:
    """`DiscreteHMM` steps before the first observation: `initial @ transition` is the loop's first law."""
    y, lengths = hidden_markov.simulate(N=3, T=8, family=family)
    params = start(getattr(discrete_hmm, family), y, lengths)
    params["initial"] = torch.tensor([0.9, 0.1])
    loop = {**params, "initial": params["initial"] @ params["transition"]}
    got = log_evidence(getattr(discrete_hmm, family), y, lengths, params=params)
    close(got, log_evidence(getattr(hidden_markov, family), y, lengths, params=loop))
    assert abs(got - log_evidence(getattr(hidden_markov, family), y, lengths, params=params)) > SOLVERS


def test_factorial_chain_is_a_chain_of_pairs() -> None:
    """Two chains of two states are one of four."""
    y = factorial_hidden_markov.simulate()
    params = start(factorial_hidden_markov.factorial, y)
    params["initial_a"], params["initial_b"] = torch.tensor([0.3, 0.7]), torch.tensor([0.6, 0.4])
    params["transition_b"] = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    pairs = {
        "initial": torch.kron(params["initial_a"], params["initial_b"]),
        "transition": torch.kron(params["transition_a"], params["transition_b"]),
        "loc": (params["level"][:, None] + torch.cat([torch.zeros(1), params["shift"]])).reshape(-1),
        "scale": params["scale"].repeat(4),
    }
    want = log_evidence(hidden_markov.gaussian, y, None, 4, params=pairs)
    close(log_evidence(factorial_hidden_markov.factorial, y, params=params), want)


def test_left_to_right_is_a_chain_with_zeros() -> None:
    """Structural zeros written as logits are the same chain with zero probabilities."""
    y, lengths, _ = hidden_markov.simulate_left_to_right(S=3)
    params = start(hidden_markov.left_to_right, y, lengths, 3)
    params["stay"] = torch.tensor([0.8, 0.6])
    zeros = {**params, "initial": [1.0, 0.0, 0.0], "transition": [[0.8, 0.2, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]}
    want = log_evidence(hidden_markov.gaussian, y, lengths, 3, params=zeros)
    close(log_evidence(hidden_markov.left_to_right, y, lengths, 3, params=params), want)


def test_guessing_at_zero_is_two_parameters() -> None:
    """3PL without guessing is 2PL, apart from the prior; the prior is Beta(5, 17)."""
    answers = item_response.simulate(n=50)
    guess = torch.full((5,), 1e-30)
    prior = dist.Beta(5.0, 17.0).log_prob(guess).sum()
    got = log_evidence(item_response.three_parameters, answers, params={"guess": guess})
    close(got - prior, log_evidence(item_response.two_parameters, answers))
