"""Options: starts, `m_step`, and single steps."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from programs.loops import mixture, points, stored
from programs.registry import build
from torch import Tensor, tensor

from em_pyro import EM, ObjectiveError, ParameterError, PlanError

# ---- starts ----------------------------------------------------------------------------------------------------------


def test_starts_do_not_depend_on_their_number() -> None:
    """Start i of a seed is the same among three as among five; another seed has others; no generator moves."""
    x, state = points(), torch.get_rng_state()

    def firsts(starts: int, seed: int) -> list[float]:
        pyro.clear_param_store()
        return [run.objective for run in EM(mixture, starts=starts, seed=seed, tol=0, max_steps=1).fit(x, 3).starts]

    three, five, other = firsts(3, 1), firsts(5, 1), firsts(3, 2)
    assert five[:3] == three
    assert three[0] == other[0], "start 0 is the program's own"
    assert three[1:] != other[1:]
    assert len(set(five)) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_the_best_start_wins_and_bad_endings_lose() -> None:
    """Among given starts the highest interior one is returned, though the degenerate one is higher."""
    x = points()
    good = {"loc": tensor([0.0, 4.0]), "scale": tensor([1.0, 1.0])}
    bad = {"loc": torch.stack([x.mean(), x[0]]), "scale": tensor([2.0, 1e-4])}
    fit = EM(gaussian_mixture.univariate, starts=[bad, good]).fit(x)
    assert [run.outcome for run in fit.starts] == ["degenerate", "converged"]
    assert fit.starts[0].objective != fit.objective
    assert fit.starts.best == 1
    assert fit.outcome == "converged"
    assert str(fit.starts) == "best of 2 starts, found by 1, one maximum; 1 did not converge"


@pytest.mark.parametrize(
    "starts",
    [{"lok": tensor([0.0, 1.0])}, {"loc": tensor([0.0, 1.0, 2.0])}, {"scale": tensor([-1.0, 1.0])}, [], 0],
    ids=["unknown", "shape", "constraint", "empty", "none"],
)
def test_a_start_that_does_not_fit_is_refused(starts: Any) -> None:
    """A clear error, and nothing in the store."""
    with pytest.raises(ParameterError, match="expected"):
        EM(mixture, starts=starts).fit(points())
    assert not stored()


def test_callables_are_redrawn() -> None:
    """A random start redraws a parameter whose initialiser is a callable, and leaves the others."""
    seen: list[Tensor] = []

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(2))
        seen.append(loc.detach().clone())
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    fit = EM(model, starts=4, tol=0, max_steps=0).fit(points())
    assert len({run.objective for run in fit.starts}) == 4


# ---- m_step ----------------------------------------------------------------------------------------------------------


def test_fixed_stays_where_it_is() -> None:
    """And changes the answer."""
    x = points()
    free = EM(mixture).fit(x)
    pyro.clear_param_store()
    fit = EM(mixture, m_step={"scale": "fixed"}).fit(x)
    assert torch.equal(fit.params["scale"], tensor([1.5, 1.5]))
    assert fit.plan["scale"].how == "fixed"
    assert fit.objective < free.objective - 1


def test_torch_reaches_the_closed_forms_answer() -> None:
    """By other iterations of the M-step, to the same maximum."""
    x = points()
    closed = EM(mixture).fit(x)
    pyro.clear_param_store()
    fit = EM(mixture, m_step=dict.fromkeys(["weights", "loc", "scale"], "torch"), tol=1e-7).fit(x)
    assert fit.plan.torch == ("weights", "loc", "scale")
    assert distance(fit.objective, closed.objective) < SOLVERS


def test_closed_is_a_demand() -> None:
    """It changes nothing where there is a closed form, and raises where there is none."""
    assert EM(mixture, m_step={"loc": "closed"}).plan(points())["loc"].closed_form
    case = build("factor_statement")
    with pytest.raises(PlanError, match="bonus"):
        EM(case.model, m_step={"bonus": "closed"}).plan(*case.args)


def test_a_callable_is_the_m_step() -> None:
    """It is given statistics and the current value; a value that lowers `Q` or does not fit is refused."""
    x = points()
    seen: list[Any] = []

    def keep(statistics: Any, value: Tensor) -> Tensor:
        seen.append(statistics)
        return value

    fit = EM(mixture, m_step={"loc": keep}, tol=0, max_steps=3).fit(x)
    assert len(seen) >= 3
    assert torch.equal(fit.params["loc"], tensor([-1.0, 3.0]))
    for wrong, error in ((lambda s, v: v + 100, ObjectiveError), (lambda s, v: v[:1], ParameterError)):
        with pytest.raises(error, match="loc"):
            EM(mixture, m_step={"loc": wrong}, max_steps=2).fit(x)


@pytest.mark.parametrize("option", [{"lok": "fixed"}, {"loc": "newton"}], ids=["name", "choice"])
def test_an_unknown_m_step_is_refused(option: dict[str, str]) -> None:
    """By name and by choice."""
    with pytest.raises(ParameterError, match="expected"):
        EM(mixture, m_step=option).fit(points())


@pytest.mark.parametrize(
    "options", [{"tol": -1.0}, {"max_steps": -1}, {"starts": 0}], ids=["tol", "max_steps", "starts"]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """When the EM is built."""
    with pytest.raises(ParameterError, match="expected"):
        EM(mixture, **options)


# ---- step ------------------------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_fit() -> None:
    """Each returns minus the objective at the values its E-step used."""
    x = points()
    path = EM(mixture, tol=0, max_steps=5).fit(x).path
    pyro.clear_param_store()
    em = EM(mixture)
    losses = [em.step(x) for _ in range(6)]
    assert max(distance(-loss, objective) for loss, objective in zip(losses, path, strict=True)) < IDENTITY


def test_steps_may_alternate_between_data() -> None:
    """The objective is of the data passed, and changing a tensor in place is changing the data."""
    em, x, y = EM(mixture), points(), points(seed=1)
    for data in (x, y, x, y):
        at = {name: value.clone() for name, value in em.params.items()}
        loss = em.step(data)
        with pyro.get_param_store().scope():
            pyro.clear_param_store()
            alone = EM(mixture, starts=at, tol=0, max_steps=0).fit(data) if at else None
        assert alone is None or distance(-loss, alone.objective) < IDENTITY
    before = em.step(x)
    x.add_(3.0)
    assert em.step(x) != pytest.approx(before, abs=1.0)


@pytest.mark.parametrize("change", ["array", "from an array", "data", "type"])
def test_changes_that_torch_does_not_count_are_noticed(change: str) -> None:
    """The same object with other contents is other data; so is `True` where there was a one."""

    def model(x: Any, shift: Any = 0) -> None:
        mixture(torch.as_tensor(x) + (100.0 if shift is True else 0.0))

    em, array = EM(model, max_steps=20), points().numpy().copy()
    x = {"array": array, "from an array": torch.from_numpy(array)}.get(change, tensor(array))
    before = em.fit(x, 1).params["loc"]
    if change == "data":
        x.data += 100.0
    elif change != "type":
        array += 100.0
    pyro.clear_param_store()
    after = em.fit(x, True if change == "type" else 1).params["loc"]
    assert float((after - before).min()) > 50
