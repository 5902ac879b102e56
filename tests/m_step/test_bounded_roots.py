"""Random slopes that are not centred: a Cholesky factor multiplies standard normal latents, and is solved for.

The maxima are those of the same program centred, where the factor is that of the covariance of the latents.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, Fit

GROUPS, PER = 10, 6
OF = torch.arange(GROUPS).repeat_interleave(PER)
DAYS = torch.arange(PER).double() - 2.5
DAY = DAYS.repeat(GROUPS)


def drawn(*shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def beside() -> Tensor:
    """What no line of any group explains."""
    noise = drawn(GROUPS, PER)
    noise = noise - noise.mean(1, keepdim=True)
    return (noise - (noise @ DAYS)[:, None] * DAYS / (DAYS @ DAYS)).reshape(-1)


LEVEL, SLOPE = ((drawn(2, GROUPS) - drawn(2, GROUPS).mean(1, keepdim=True)) * torch.tensor([[1.8], [0.9]])).unbind()
DATA = {
    "inside": ((LEVEL + 0.5 * SLOPE)[OF] + SLOPE[OF] * DAY, []),
    "one level": (SLOPE[OF] * DAY, ['"L"[0, 0]']),
    "parallel lines": (LEVEL[OF], ['"L"[1, 1]']),
    "slopes by level": (LEVEL[OF] * (1 - 0.5 * DAY), ['"L"[1, 1]']),
    "one line": (0 * DAY, ['"L"[0, 0]', '"L"[1, 1]']),
}


def lines(y: Tensor, effects: Callable[[Tensor], Tensor]) -> None:
    """Give every group a line of its own."""
    root = pyro.param("L", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    coef, noise = (
        pyro.param("b", torch.zeros(2).double()),
        pyro.param("s", torch.ones(()).double(), constraints.positive),
    )
    with pyro.plate("groups", GROUPS):
        u = effects(root)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(coef[0] + u[..., OF, 0] + (coef[1] + u[..., OF, 1]) * DAY, noise), obs=y)


def apart(y: Tensor) -> None:
    """Multiply standard normal latents."""
    lines(y, lambda L: pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)) @ L.T)


def centred(y: Tensor) -> None:
    """Have them as they are."""
    lines(y, lambda L: pyro.sample("u", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=L)))


def fitted(model: Callable[[Tensor], None], y: Tensor) -> Fit:
    """Fit from the starts of the program; towards a covariance without a rank the centred one creeps."""
    pyro.clear_param_store()
    return EM(model, tol=1e-10, max_steps=150).fit(y)


@pytest.mark.parametrize("name", DATA)
def test_the_maximum_is_that_of_the_centred_program(name: str) -> None:
    """The factor may have zeros on its diagonal, which are named."""
    signal, zeros = DATA[name]
    fit, other = (fitted(model, signal + beside()) for model in (apart, centred))
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, rel=SOLVERS)
    assert fit.log_likelihood >= other.log_likelihood - IDENTITY * (1 + abs(other.log_likelihood))
    covariance, truth = (f.params["L"] @ f.params["L"].T for f in (fit, other))
    torch.testing.assert_close(covariance, truth, rtol=1e-3, atol=1e-3)
    named = [note.removeprefix("at the boundary: ") for note in fit.notes if note.startswith("at the boundary")]
    assert named == ([", ".join(zeros)] if zeros else [])


def test_it_has_a_closed_form() -> None:
    """Between its bounds: no torch."""
    pyro.clear_param_store()
    plan = EM(apart).plan(DATA["inside"][0] + beside())
    assert {line.how for line in plan.lines.values()} == {"closed form"}
    assert "between its bounds" in plan["L"].why
