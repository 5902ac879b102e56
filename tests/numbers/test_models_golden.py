"""The zoo at published and independently computed optima.

The evidence is Pyro's own, so that these tests say something about the models and nothing about the engine.
"""

from typing import Any

import pytest
import torch
from oracles.agreement import close, expected
from oracles.answers import ANSWERS, speed_with_payoff
from oracles.evidence import log_evidence
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor


def shifted(value: Any) -> Tensor:
    """Move a parameter by about 2 %; what sums to one still does."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if value.dim() and torch.allclose(value.sum(-1), torch.tensor(1.0)):
        return value**1.02 / (value**1.02).sum(-1, keepdim=True)
    return value * 0.98


@pytest.mark.parametrize("case", ANSWERS)
def test_likelihood_at_the_optimum(case: str) -> None:
    """The log evidence at the golden parameters is the golden log-likelihood; it is lower beside the first of them."""
    found = list(ANSWERS[case](expected(case)))
    for model, args, params, want in found:
        close(log_evidence(model, *args, params=params), want)
    model, args, params, want = found[0]
    moved = log_evidence(model, *args, params={name: shifted(value) for name, value in params.items()})
    assert moved < want - IDENTITY * (1 + abs(want))


def test_transitions_with_a_covariate() -> None:
    """depmixS4's own fit, a peer's only: transitions by softmax of the standardised pay-off for accuracy."""
    peer = expected("speed")["transition_covariate"]
    model, args, params = speed_with_payoff(peer)
    close(log_evidence(model, *args, params=params), peer["ll"], SOLVERS)
