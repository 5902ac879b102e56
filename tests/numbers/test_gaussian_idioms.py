"""Factor analyses whose factors go together, and crossed effects, as people write them: by dense normal laws."""

from collections.abc import Callable

import pyro
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY, SOLVERS
from programs.gaussian_idioms import IDIOMS
from torch import Tensor
from torch.distributions import transform_to

from em_pyro import EM
from em_pyro.after.fit import Fit
from em_pyro.fit.problem import prepare

BY_TORCH = {"units of factors by a correlation": {"root"}}
"""Parameters without a closed form: the diagonal of a correlation is one."""


def fitted(name: str, **options: object) -> Fit:
    """Fit one of them; its M-steps are closed forms but where one is named."""
    pyro.clear_param_store()
    model, args, _ = IDIOMS[name]
    fit = EM(model, **options).fit(*args)  # type: ignore[arg-type]
    assert {n for n, line in fit.plan.lines.items() if line.how not in ("closed form", "swept")} == BY_TORCH.get(
        name, set()
    )
    return fit


@pytest.mark.parametrize("name", IDIOMS)
def test_evidence_is_that_of_a_dense_normal_law(name: str) -> None:
    """Before and after three steps, each of which rises; another parameter has another."""
    fit, evidence = fitted(name, max_steps=3, acceleration=None), IDIOMS[name].evidence
    close(fit.log_likelihood, float(evidence(fit.params)))
    assert all(after > before - IDENTITY for before, after in zip(fit.path, fit.path[1:], strict=False))
    for key, value in fit.params.items():
        assert abs(float(evidence({**fit.params, key: 1.01 * value})) - fit.log_likelihood) > 1e-6


@pytest.mark.parametrize("name", IDIOMS)
def test_a_fit_ends_at_a_maximum_of_it(name: str) -> None:
    """A quasi-Newton method on the dense law, from there and from beside it, comes no higher."""
    fit, (model, args, evidence) = fitted(name), IDIOMS[name]
    parameters = prepare(model, args, {}, {}, check=False).program.parameters
    domains = {n: transform_to(parameters[n].constraint) for n in fit.params}
    generator = torch.Generator().manual_seed(0)
    for away in (0.0, 0.2):
        points = {n: domains[n].inv(value).detach() for n, value in fit.params.items()}
        noise = {n: away * torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in points.items()}
        points = {n: (p + noise[n]).requires_grad_() for n, p in points.items()}
        first, last = climbed(points, lambda at: evidence({n: domains[n](value) for n, value in at.items()}))
        assert (first < fit.log_likelihood - SOLVERS) == (away > 0)
        assert last < fit.log_likelihood + SOLVERS * (1 + abs(fit.log_likelihood))


def climbed(points: dict[str, Tensor], height: Callable[[dict[str, Tensor]], Tensor]) -> tuple[float, float]:
    """Climb from some points, which are moved; return the heights there and at the end."""
    search = torch.optim.LBFGS(list(points.values()), max_iter=100, line_search_fn="strong_wolfe")
    first = float(height(points).detach())

    def fall() -> Tensor:
        search.zero_grad()
        down = -height(points)
        down.backward()
        return down

    search.step(fall)
    return first, float(height(points).detach())
