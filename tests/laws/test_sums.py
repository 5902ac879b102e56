"""Statistics are values with `+`: the parts of any split, each about a centre of its own, add up to the whole."""

from dataclasses import replace

import pytest
import torch
from oracles.engines import distance
from oracles.splits import split
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from oracles.varied import VARIED
from torch import Tensor

from em_pyro import PlanError
from em_pyro.e_step.expectation import Expectation
from em_pyro.e_step.sums import Sums
from em_pyro.families.normal import Normal
from em_pyro.m_step.maximise import maximise
from em_pyro.m_step.plan import choose
from em_pyro.program.named import batched

SAME_IN_ONE_PART = ("hmm-with-covariate",)
"""Programs with covariates by row that are the same in all rows of one part, where their statistics are summed."""


JOINED = (
    "markov_chain", "factorial_chain", "global_latent_above_chain", "left_to_right_chain", "hmm_ragged",
    "hmm_covariate", "hmm_stationary", "hmm_under_a_global_latent", "hmm_of_another_family", "loop_ragged_and_weighted",
    "loop_backwards", "padded_chains", "partly_labelled", "poisson_exposure", "multinomial_mixture", "three_way_table",
    "global_latent", "three_nested_plates", "latents_at_every_level", "sequential_plate", "far_dimension", "no_latent",
    "no_plate", "row_counts", "sequence_counts", "nested_counts", "hurdle-poisson", "hurdle-negative-binomial",
    "tomography", "neural-em",
)  # fmt: skip
"""Programs whose rows are joined, or have parameters of their own, or that have something outside their plate."""

CHAINS = ("hmm-categorical", "hmm-multivariate-tied", "discrete-hmm-poisson")
"""Beside those of `VARIED`: rows that are sequences."""

SPLIT = [name for name in (*VARIED, *CHAINS, *SAME_IN_ONE_PART) if name not in JOINED]


@pytest.mark.parametrize("name", SPLIT)
def test_the_sums_of_halves_are_those_of_the_whole(name: str) -> None:
    """Evidence, sums and weights add; the M-step of the sum is that of the whole; a lost row is noticed."""
    parts = split(name)
    assert parts is not None
    whole, here = parts.whole, parts.here
    total = expect(whole, here)
    if name in SAME_IN_ONE_PART:
        with pytest.raises(PlanError, match="differ by row of plate"):
            _ = expect(whole.on(parts.parts[0]), here) + expect(whole.on(parts.parts[1]), here)
        return
    found = [expect(whole.on(args), here) for args in parts.parts]
    added = replace(found[0] + found[1], log_prior=total.log_prior)
    assert same(added, total)
    assert distance((found[0] + found[1]).log_prior, torch.zeros_like(total.log_prior)) >= 0  # once, by who adds
    assert float(added.objective) == float(added.log_evidence + total.log_prior)
    plan = choose(whole, {}, {})
    if not plan.torch and not plan.swept:
        one, other = (maximise(whole, plan, e, batched(here)) for e in (added, total))
        assert max(distance(one[n], other[n]) for n in one) < 10 * IDENTITY
    assert not same(replace(found[1], log_prior=total.log_prior), total)


def same(a: Expectation, b: Expectation) -> bool:
    """Whether two expectations agree, wherever their sums are centred."""
    if distance(a.log_evidence, b.log_evidence) > IDENTITY:
        return False
    pairs = [(a.weights[n].tensor, b.weights[n].tensor) for n in b.weights]
    for name, one in a.sums.items():
        other = b.sums[name]
        if one.around is not None and other.around is not None and one.kept is None:
            one = one.about(other.around)
        elif one.around is not None and other.around is not None:
            one, other = (part.about(torch.zeros_like(part.around)) for part in (one, other))  # type: ignore[arg-type]
        pairs += zip(one.parts, other.parts, strict=True)
    return all(x.shape == y.shape and close(x, y) for x, y in pairs)


def close(x: Tensor, y: Tensor) -> bool:
    """Whether two statistics agree, relative to the largest of their kind."""
    return not x.numel() or float((x - y).abs().max()) <= IDENTITY * (1 + float(y.abs().max()))


@pytest.mark.parametrize("name", JOINED)
def test_the_others_cannot_be_split(name: str) -> None:
    """None is left out of the law above that has two parts."""
    assert split(name) is None


def test_sums_about_other_centres_do_not_add_unmoved() -> None:
    """Parts whose centres are three apart: moved they are the whole to rounding, unmoved they are far off."""
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)) + 1e6
    family = Normal()

    def sums(values: Tensor, centre: float) -> Sums:
        around = torch.tensor([centre])
        parts = tuple(part.sum(0, keepdim=True) for part in family.statistics(values - around, {}))
        return Sums("x", family, parts, around)

    first, second, whole = sums(x[:15], 1e6), sums(x[15:], 1e6 + 3), sums(x, 1e6)
    added = first + second
    assert all(close(a, b) for a, b in zip(added.parts, whole.parts, strict=True))
    unmoved = [a + b for a, b in zip(first.parts, second.parts, strict=True)]
    assert not all(close(a, b) for a, b in zip(unmoved, whole.parts, strict=True))


def test_rows_among_others_cannot_be_split() -> None:
    """Weights kept by row, in an order that has no place for others beside them, are refused by their site."""
    part = Sums("x", Normal(), (torch.ones(1, 2, 6),), None, "rows", None)
    with pytest.raises(PlanError, match='Site "x": expected statistics that add up over rows of plate "rows"'):
        _ = part + part
    beside = Sums("x", Normal(), (torch.ones(1, 2, 6),), None, "rows", 2)
    assert (beside + beside).parts[0].shape == (1, 2, 12)
