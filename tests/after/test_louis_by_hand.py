"""Observed information in one pass against log evidence written by hand, and against numbers found elsewhere."""

from functools import partial

import pytest
import torch
from em_pyro.models import gaussian_mixture
from em_pyro.models.data import load
from em_pyro.models.poisson_mixture import poisson_mixture
from oracles.tolerances import IDENTITY, printed
from oracles.units import off, unit_of
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from em_pyro.after.information.louis import second_order
from em_pyro.e_step.second import second
from em_pyro.e_step.second.directions import Directions
from em_pyro.e_step.shares import Collect
from em_pyro.fit.problem import Problem, prepare
from em_pyro.fit.verdict.around import Around
from em_pyro.fit.verdict.ground import Ground, around_of

FAR = 1e-3
"""What a planted fault must be off by, at least."""


def mixture(rows: int, dimensions: int, states: int, narrow: float = 1.0) -> tuple[Problem, dict[str, Tensor], Tensor]:
    """Return a mixture of normals off its maximum; the first state is so many times narrower, and far from the rest."""
    generator = torch.Generator().manual_seed(0)
    loc = 1.5 * torch.randn((states, dimensions), generator=generator)
    tril = torch.eye(dimensions) + 0.2 * torch.ones((dimensions, dimensions)).tril(-1)
    scale_tril = tril.repeat(states, 1, 1) / torch.tensor([narrow] + [1.0] * (states - 1))[:, None, None]
    state = torch.arange(rows) % states
    x = loc[state] + (scale_tril[state] @ torch.randn((rows, dimensions, 1), generator=generator)).squeeze(-1)
    weights = torch.softmax(torch.linspace(0.0, 0.5, states), 0)
    problem = prepare(partial(gaussian_mixture.full, K=states), (x,), {}, {}, check=False)
    params = {"weights": weights, "loc": loc + 0.1 / narrow, "scale_tril": 1.05 * scale_tril}
    return problem, params, x


def evidence(x: Tensor, around: Around, v: Tensor) -> Tensor:
    """Log evidence of every row, written by hand."""
    batch = {name: value.squeeze(0) for name, value in around.batch(v.unsqueeze(0)).items()}
    density = torch.distributions.MultivariateNormal(batch["loc"], scale_tril=batch["scale_tril"], validate_args=False)
    return (batch["weights"].log() + density.log_prob(x.unsqueeze(-2))).logsumexp(-1)


@pytest.mark.parametrize(("rows", "dimensions", "states"), [(200, 2, 3), (60_000, 2, 2), (60, 4, 1)])
def test_information_is_the_hessian(rows: int, dimensions: int, states: int) -> None:
    """Against a log evidence written by hand, in one chunk or several, of one state or several."""
    problem, params, x = mixture(rows, dimensions, states)
    assert (len(problem.engine.parts[0].chunks()) > 1) == (rows == 60_000)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    wanted = -hessian(lambda v: evidence(x, around, v).sum(), torch.zeros(around.size))
    assert off(found.observed, wanted, unit_of(found)) < IDENTITY


def test_narrow_states_keep_their_digits() -> None:
    """A state ten thousand times narrower than the rest has all digits of its own."""
    assert narrow_digits() < IDENTITY


def test_one_centre_loses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: around one centre the fourth power of the distance eats them."""
    monkeypatch.setattr(second, "FARTHEST", torch.inf)
    assert narrow_digits() > FAR


def narrow_digits() -> float:
    """By how much the information about a narrow state is wrong, and what its rows say of it."""
    problem, params, x = mixture(300, 2, 3, narrow=1e4)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    assert found.squares is not None
    here, unit = torch.zeros(around.size), unit_of(found)
    slopes = jacobian(lambda v: evidence(x, around, v), here)
    wanted = -hessian(lambda v: evidence(x, around, v).sum(), here)
    return max(off(found.observed, wanted, unit), off(found.squares, slopes.mT @ slopes, unit))


def test_along_a_basis() -> None:
    """Directions may be few; then rows are looked at one by one, and the numbers are the same."""
    problem, params, _ = mixture(500, 2, 3)
    whole = second_order(problem, params)
    basis = torch.randn((17, 1), generator=torch.Generator().manual_seed(1))
    few = second_order(problem, params, basis=basis)
    assert whole is not None
    assert whole.squares is not None
    assert few is not None
    assert few.squares is not None
    unit = few.complete.rsqrt()
    assert off(few.observed, basis.mT @ whole.observed @ basis, unit) < IDENTITY
    assert off(few.squares, basis.mT @ whole.squares @ basis, unit) < IDENTITY


def test_parts_add_up() -> None:
    """Sums over two parts of the rows, each around a centre of its own, are those over all."""
    problem, params, x = mixture(400, 2, 2)
    around = around_of(problem, params)
    along = Collect(along=Directions(around.batch, torch.eye(around.size)))
    bound = problem.bind({name: value.unsqueeze(0) for name, value in around.params.items()})
    parts = [problem.engine.on((part,)).expect(bound, collect=along) for part in (x[:100], x[100:] + 0.0)]
    both, whole = (parts[0] + parts[1]).second, problem.expect(bound, collect=along).second
    assert both is not None
    assert whole is not None
    assert both.squares is not None
    assert whole.squares is not None
    unit = torch.diag(whole.squares.diagonal().rsqrt())
    assert off(both.missing, whole.missing, unit) < IDENTITY
    assert off(both.squares, whole.squares, unit) < IDENTITY


def test_nothing_is_collected_that_is_not_asked_for() -> None:
    """A step of EM does not pay for it."""
    problem, params, _ = mixture(100, 2, 2)
    bound = problem.bind({name: value.unsqueeze(0) for name, value in params.items()})
    assert problem.expect(bound).second is None


def test_london_deaths() -> None:
    """Standard errors of three kinds, at the maximum that Newton's method reaches by this information.

    The numbers were found by differences of the score and of the rows' log evidence, in another parametrisation.
    """
    table = {name: torch.tensor(column) for name, column in load("london_deaths").items()}
    counts = table["deaths"].double().repeat_interleave(table["days"])
    problem = prepare(poisson_mixture, (counts, 2), {}, {}, check=False)
    params = {"weights": torch.tensor([0.36, 0.64]), "rate": torch.tensor([1.256, 2.663])}
    for _ in range(6):
        around = around_of(problem, params)
        found = second_order(problem, params, around=around)
        assert found is not None
        step = torch.linalg.solve(found.observed, Ground(problem, around).slopes(torch.zeros(1, around.size))[0])
        params = {name: value.squeeze(0) for name, value in around.batch(step.unsqueeze(0)).items()}
    assert float(step.abs().max()) < IDENTITY
    assert found.squares is not None
    onto = jacobian(lambda v: torch.cat([around.batch(v.unsqueeze(0))[n][0] for n in params])[1:], torch.zeros(3))
    inverse = found.observed.inverse()
    for covariance, errors in (
        (inverse, ("0.19468429868778", "0.35002971139691", "0.25047827030871")),
        (found.squares.inverse(), ("0.2063148587", "0.3696163051", "0.2654547323")),
        (inverse @ found.squares @ inverse, ("0.1837538019", "0.3316768373", "0.2363993737")),
    ):
        for error, text in zip((onto @ covariance @ onto.mT).diagonal().sqrt().tolist(), errors, strict=True):
            assert abs(error - float(text)) < max(printed(text), IDENTITY)
