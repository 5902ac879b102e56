"""The oracles agree with each other and with sums written out by hand, and each comparison notices a planted fault."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pyro
import pytest
import torch
from oracles.brute import brute, case_of
from oracles.oracle import Joint, brute_force
from oracles.replay import moved_params, starting_params
from oracles.tap import Tapped, tapped_weights
from oracles.tolerances import IDENTITY
from oracles.varied import PROGRAMS
from programs.registry import NAMES, build
from programs.silently_wrong import CORRECT, WRONG, Seeded
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.distributions import Binomial, Normal

SUPPORTED = [name for name in PROGRAMS if build(name).trace_enum]
"""Of every structure: that both agree with both engines are laws of the E-step, over all programs."""

REPEATED = [name for name in NAMES if build(name).repeated is not None]


@dataclass(frozen=True)
class Evaluated:
    """Both oracles on one program, and the expected log factors at parameters elsewhere."""

    joint: Joint
    tapped: Tapped
    elsewhere: Tapped
    expected: dict[str, float]


@cache
def evaluate(name: str) -> Evaluated:
    """Run both oracles once for all tests of a program."""
    case = case_of(name)
    here, there = starting_params(case), moved_params(case, seed=1)
    joint = brute(name)
    return Evaluated(
        joint,
        tapped_weights(case.model, case.args, params=here),
        tapped_weights(case.model, case.args, params=there),
        joint.expected_log_factors(there, keep_barren=True),
    )


def distance(a: float, b: float) -> float:
    """Difference relative to `1 + |a|`."""
    return abs(a - b) / (1 + abs(a))


def largest_distance(a: dict[str, float], b: dict[str, float]) -> float:
    """The largest distance over sites."""
    assert a.keys() == b.keys()
    return max(distance(a[site], b[site]) for site in a)


@pytest.mark.parametrize("name", SUPPORTED)
def test_evidence_by_brute_force_is_pyros(name: str) -> None:
    """Log evidence is one number; with the log factors of any one site 0.1 % off it is another."""
    both = evaluate(name)
    assert distance(both.joint.log_evidence, both.tapped.log_evidence) < IDENTITY
    for site in both.joint.tables:
        less = replace(both.joint, tables={**both.joint.tables, site: 1.001 * both.joint.tables[site]})
        moves = bool(both.joint.tables[site].nan_to_num(neginf=0.0).any())
        assert (distance(less.log_evidence, both.tapped.log_evidence) > IDENTITY) == moves


@pytest.mark.parametrize("name", SUPPORTED)
def test_weights_are_the_posterior(name: str) -> None:
    """The gradient of log evidence by a factor is its posterior weight; a weight 0.1 % off is noticed."""
    both = evaluate(name)
    found = both.tapped.expected_log_factors(both.elsewhere)
    assert largest_distance(both.expected, found) < IDENTITY
    for site, expected in both.expected.items():
        if expected != 0:
            weights = {**both.tapped.weights, site: 1.001 * both.tapped.weights[site]}
            wrong = replace(both.tapped, weights=weights).expected_log_factors(both.elsewhere)
            assert largest_distance(both.expected, wrong) > IDENTITY


@pytest.mark.parametrize("name", SUPPORTED)
def test_swapped_states_are_noticed(name: str) -> None:
    """Weights with the states of every latent in reverse order are not the posterior."""
    both = evaluate(name)
    weights = {site: w.flip(tuple(range(w.dim()))) for site, w in both.tapped.weights.items()}
    wrong = replace(both.tapped, weights=weights).expected_log_factors(both.elsewhere)
    assert largest_distance(both.expected, wrong) > IDENTITY


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_parameter_is_in_use_and_put_back(name: str) -> None:
    """Moving any one parameter moves some factor, modules' weights included, and the store is then as it was."""
    case = build(name)
    here, there = starting_params(case), moved_params(case, seed=2)
    at_start = tapped_weights(case.model, case.args, params=here).log_factors
    before = {n: v.detach().clone() for n, v in pyro.get_param_store().named_parameters()}
    for parameter, value in there.items():
        moved = tapped_weights(case.model, case.args, params={**here, parameter: value}).log_factors
        assert any(not torch.equal(moved[site], at_start[site]) for site in moved)
    after = dict(pyro.get_param_store().named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before)
    again = tapped_weights(case.model, case.args, params=case.map_values).log_factors
    assert all(torch.allclose(again[site], at_start[site], rtol=0, atol=1e-14) for site in again)


@pytest.mark.parametrize("name", REPEATED)
def test_integer_weight_is_the_row_repeated(name: str) -> None:
    """Weighted and repeated rows have one evidence and one `Q`; without their weights they do not."""
    case = build(name)
    here, there = starting_params(case), moved_params(case, seed=1)
    repeated = brute_force(case.model, case.repeated or (), params=here)
    if name == "nested_counts":
        with pytest.raises(NotImplementedError, match="repeat rows"):
            brute_force(case.model, case.args, params=here)
        return
    weighted = brute_force(case.model, case.args, params=here)
    assert distance(weighted.log_evidence, repeated.log_evidence) < IDENTITY
    for keep in (False, True):
        expected = repeated.expected_log_factors(there, keep_barren=keep)
        assert largest_distance(expected, weighted.expected_log_factors(there, keep_barren=keep)) < IDENTITY
    wrong = replace(weighted, scale=1.001 * weighted.scale)
    assert distance(wrong.log_evidence, repeated.log_evidence) > IDENTITY
    assert largest_distance(repeated.expected_log_factors(there), wrong.expected_log_factors(there)) > IDENTITY


def test_coins_by_hand() -> None:
    """Log evidence and responsibilities of the coins are those of Bayes' rule, row by row."""
    case = build("binomial_coins")
    heads, flips = case.args
    bias = starting_params(case)["bias"]
    rows = torch.tensor(0.5).log() + Binomial(flips[:, None], bias).log_prob(heads[:, None])
    joint = evaluate("binomial_coins").joint
    assert distance(float(rows.logsumexp(1).sum()), joint.log_evidence) < IDENTITY
    assert (joint.marginals["coin"] - rows.softmax(1)).abs().max() < IDENTITY
    assert (joint.marginals["coin"] - rows.softmax(1).flip(1)).abs().max() > IDENTITY
    assert torch.equal(joint.mode()["coin"], rows.argmax(1))


def test_row_weights_by_hand() -> None:
    """A fractional weight multiplies the row's log-sum."""
    case = build("row_weights")
    x, w = case.args
    p = starting_params(case)
    rows = p["weights"].log() + Normal(p["loc"], p["scale"]).log_prob(x[:, None])
    joint = brute_force(case.model, case.args, params=p)
    assert distance(float(w @ rows.logsumexp(1)), joint.log_evidence) < IDENTITY
    assert distance(float(rows.logsumexp(1).sum()), joint.log_evidence) > IDENTITY
    expected = float((w[:, None] * rows.softmax(1) * p["weights"].log()).sum())
    assert distance(expected, joint.expected_log_factors(p)["z"]) < IDENTITY


def forward(y: Tensor, p: dict[str, Tensor]) -> float:
    """Log evidence of a chain with unit scales by the forward recursion."""
    alpha = p["initial"].log() + Normal(p["loc"], 1.0).log_prob(y[0])
    for value in y[1:]:
        alpha = (alpha[:, None] + p["transition"].log()).logsumexp(0) + Normal(p["loc"], 1.0).log_prob(value)
    return float(alpha.logsumexp(0))


def test_padded_chains_by_hand() -> None:
    """Padding changes nothing: the evidence is the sum over the sequences, each at its length, by forward recursion."""
    case = build("padded_chains")
    y, lengths = case.args
    p = starting_params(case)
    by_hand = sum(forward(y[i, :n], p) for i, n in enumerate(lengths.tolist()))
    assert distance(by_hand, evaluate("padded_chains").joint.log_evidence) < IDENTITY
    assert distance(sum(forward(row, p) for row in y), by_hand) > IDENTITY


def test_barren_entries() -> None:
    """Barren are padding, labelled rows of an unobserved half, and latents without observed descendants, only they."""
    lengths = build("padded_chains").args[1]
    padded = evaluate("padded_chains").joint.barren
    assert all(torch.equal(padded[f"x_{t}"], lengths <= t) for t in range(3))
    known = build("partly_labelled").args[2]
    assert torch.equal(evaluate("partly_labelled").joint.barren["z_unobserved"], known)
    gap = evaluate("gap_in_chain").joint.barren
    assert [bool(gap[f"x_{t}"]) for t in range(4)] == [False, False, False, True]
    spare = evaluate("barren_latent").joint.barren
    assert bool(spare["following"].all())
    assert not spare["z"].any()
    assert not any(bool(b.any()) for b in evaluate("markov_chain").joint.barren.values())
    labelled = build("partly_labelled")
    joint, there = evaluate("partly_labelled").joint, moved_params(labelled, seed=1)
    dropped = joint.expected_log_factors(there)["z_unobserved"]
    assert distance(joint.expected_log_factors(there, keep_barren=True)["z_unobserved"], dropped) > IDENTITY


@pytest.mark.parametrize("name", ["global_latent", "latents_at_every_level", "two_latents", "sibling_plates"])
def test_marginals_are_pyros(name: str) -> None:
    """Marginals by brute force are those of `compute_marginals`; in reverse order they are not."""
    case, joint = build(name), evaluate(name).joint
    nesting = 2 if name == "latents_at_every_level" else 1
    elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
    for site, law in elbo.compute_marginals(config_enumerate(case.model), lambda *_: None, *case.args).items():
        probs = law.probs.detach().reshape(joint.marginals[site].shape)
        assert (probs - joint.marginals[site]).abs().max() < IDENTITY
        assert (probs - joint.marginals[site].flip(-1)).abs().max() > IDENTITY


def test_refusals() -> None:
    """A continuous latent without a value and a name that the model does not have are refused."""
    case = build("beta_coins")
    with pytest.raises(ValueError, match="continuous"):
        brute_force(case.model, case.args)
    with pytest.raises(KeyError):
        brute_force(case.model, case.args, params={**case.map_values, "bais": torch.zeros(2)})


def evidence_gap(program: Callable[[int], Seeded], seed: int) -> float:
    """How far Pyro's evidence of a seeded program is from that of its concrete runs."""
    pyro.clear_param_store()
    model, args = program(seed)
    return distance(brute_force(model, args).log_evidence, tapped_weights(model, args).log_evidence)


@pytest.mark.parametrize("name", WRONG)
def test_silently_wrong_programs_are_wrong(name: str) -> None:
    """Pyro runs them without a warning, and its evidence is not theirs."""
    assert min(evidence_gap(WRONG[name], seed) for seed in range(10)) > 1e-6


@pytest.mark.parametrize("name", CORRECT)
def test_programs_that_resemble_them_are_correct(name: str) -> None:
    """The correct ones have the evidence that enumeration says."""
    assert max(evidence_gap(CORRECT[name], seed) for seed in range(10)) < IDENTITY
