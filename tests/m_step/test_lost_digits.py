"""Where `Q` has no maximum: a climb ends where `Q` has no digits left, and not below where it began."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

LAWS = {"normal": dist.Normal, "log-normal": dist.LogNormal}
U = tensor([-1.0, 0.0, 0.1, -0.2], dtype=torch.float64)
Y = tensor([1.3, 2.2, 0.7, 1.9], dtype=torch.float64)
DIGITS = 0.1  # nats: rounding, where a climb has gained more than that against it


def spreading(y: Tensor, u: Tensor, law: str, states: int) -> None:
    """Locations, and log-scales that are lines: the density of a row through which a location passes has no bound."""
    weights = pyro.param("weights", torch.ones(states) / states, constraint=constraints.simplex)
    loc = pyro.param("loc", 0.3 + torch.arange(states))
    level, slope = pyro.param("level", 0.1 + 0.1 * torch.arange(states)), pyro.param("slope", tensor(0.2))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", LAWS[law](loc[z], (level[z] + slope * u).exp()), obs=y)


@pytest.mark.parametrize(("law", "states"), [("normal", 1), ("log-normal", 2)])
def test_a_scale_that_shrinks_is_followed_as_far_as_there_are_digits(law: str, states: int) -> None:
    """The density that the model itself has does not fall, and the loop agrees with it; a fit names the collapse."""
    em, reached = EM(spreading), []
    for _ in range(2):
        loss = em.step(Y, U, law, states)
        p = em.params
        scale = (p["level"] + p["slope"] * U[:, None]).exp()
        rows = LAWS[law](p["loc"], scale, validate_args=False).log_prob(Y[:, None])
        reached.append((-loss, float((rows + p["weights"].log()).logsumexp(-1).sum())))
    for (before, after), (loop, _) in zip(reached, reached[1:], strict=False):
        assert after >= before - DIGITS
        assert abs(loop - after) <= DIGITS
    fit = EM(spreading).fit(Y, U, law, states)
    assert fit.outcome == "degenerate"
    assert "one of a single row" in str(fit.notes)
