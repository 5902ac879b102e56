"""Many rows are read by a few of them: with the same result, and only if all rows are as these.

Rows that the few do not have differ in their loadings, their scale, their latents; and a program may do something else
with many rows. None of this is carried over.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import factor_analysis, missing_normal, mixture_of_factor_analysers, random_effects, state_space
from oracles.agreement import close
from oracles.steps import em_step
from programs.not_affine import AFFINE, located
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.errors import ModelError
from em_pyro.fit.problem import Problem, prepare
from em_pyro.program.program import Program
from em_pyro.reading.latents import carried as carrying
from em_pyro.reading.latents import few_rows

ROWS, FEW = 60, 6
OTHER = 31  # a row that is not among the few


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Read programs of few rows by fewer still; collect whether what was read is carried over."""
    found: list[bool] = []
    carried_over = carrying.carried_over
    monkeypatch.setattr(few_rows, "MANY", ROWS)
    monkeypatch.setattr(few_rows, "FEW", FEW)

    def listened(*args: Any) -> object:
        read = carried_over(*args)
        found.append(read is not None)
        return read

    monkeypatch.setattr(carrying, "carried_over", listened)
    return found


def planned(model: Callable[..., None], *args: object) -> Problem:
    """Plan a program anew."""
    pyro.clear_param_store()
    return prepare(model, args, {}, {}, check=True)


def whole(model: Callable[..., None], *args: object) -> Problem:
    """The same with all rows read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_rows, "MANY", 10**9)
        return planned(model, *args)


def check_same(one: Problem, other: Problem) -> None:
    """The same plan, the same evidence and the same step."""
    assert one.plan.lines == other.plan.lines
    start = {name: parameter.initial.double() for name, parameter in one.program.parameters.items()}
    with torch.no_grad():
        steps = [em_step(p.engine, p.plan, start) for p in (one, other)]
    close(steps[0][1].objective, steps[1][1].objective)
    for name, value in steps[0][0].items():
        close(value, steps[1][0][name])


def grouped(y: Tensor) -> None:
    """An intercept for every group of as many measurements, about a known level."""
    mean, spread = pyro.param("mean", tensor(0.3)), pyro.param("spread", tensor(0.8), constraint=constraints.positive)
    scale = pyro.param("scale", tensor(1.2), constraint=constraints.positive)
    with pyro.plate("groups", len(y), dim=-2):
        intercept = pyro.sample("intercept", dist.Normal(0.0, spread))
        with pyro.plate("in group", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(mean + 0.7 * intercept + 0.1, scale), obs=y)


MODELS: dict[str, tuple[Callable[..., None], Callable[[], tuple[object, ...]]]] = {
    "factors": (factor_analysis.factor_analysis, lambda: factor_analysis.simulate(ROWS, 4, 2)),
    "factors with holes": (factor_analysis.factor_analysis, lambda: factor_analysis.simulate(ROWS, 4, 2, missing=0.2)),
    "confirmatory": (factor_analysis.confirmatory, lambda: factor_analysis.simulate_confirmatory(ROWS)),
    "a mixture of factor analysers": (
        mixture_of_factor_analysers.mixture_of_factor_analysers,
        lambda: mixture_of_factor_analysers.simulate(ROWS),
    ),
    "missing values": (missing_normal.missing_normal, lambda: missing_normal.simulate(ROWS)),
    "groups": (grouped, lambda: (torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1)),)),
    "many sequences": (state_space.linear_dynamical_system, lambda: state_space.simulate_system(ROWS, 3)[:2]),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_is_read(carried: list[bool], name: str) -> None:
    """Whatever all rows have in common."""
    model, simulate = MODELS[name]
    args = simulate()
    found = planned(model, *args)
    assert carried == [True]
    check_same(found, whole(model, *args))


def test_the_model_runs_a_few_times_with_all_rows(carried: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the runs that cost, and what is made in them."""
    runs: list[int] = []
    replayed = Program._replayed

    def counted(self: Program, *args: object) -> object:
        runs.append(len(self.args[0]))
        return replayed(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Program, "_replayed", counted)
    planned(factor_analysis.factor_analysis, *factor_analysis.simulate(ROWS, 4, 2))
    assert carried == [True]
    assert runs.count(ROWS) <= 5 < runs.count(FEW)


# ---- rows that differ ------------------------------------------------------------------------------------------------


def same(scale: Tensor, _: int) -> Tensor:
    """The scale as it is."""
    return scale


def model_of(located: Callable[[Tensor, Tensor], Tensor], scaled: Callable[..., Tensor]) -> Callable[..., None]:
    """Two factors of four measurements, each located and scaled in its way."""

    def model(x: Tensor) -> None:
        W = pyro.param("W", torch.linspace(-1.0, 1.0, 8).reshape(4, 2))
        scale = pyro.param("scale", torch.ones(4), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(located(z, W), scaled(scale, len(x))).to_event(1), obs=x)

    return model


def _one(value: float) -> Tensor:
    """A number for each row: one, but for one row."""
    return torch.ones(ROWS, 1).index_fill(0, tensor(OTHER), value)


def _in_few(count: int) -> bool:
    return count < ROWS


DIFFERENT: dict[str, Callable[..., None]] = {
    "a loading": model_of(lambda z, W: z @ W.T * (1.0 if _in_few(len(z)) else _one(2.0)), same),
    "a loading by a little": model_of(lambda z, W: z @ W.T * (1.0 if _in_few(len(z)) else _one(1.00001)), same),
    "a scale": model_of(lambda z, W: z @ W.T, lambda s, n: s * (1.0 if _in_few(n) else _one(2.0))),
    "a latent": model_of(lambda z, W: torch.cat([z[: OTHER - 1], z[OTHER : OTHER + 1], z[OTHER:]]) @ W.T, same),
    "a known location": model_of(lambda z, W: z @ W.T + (_in_few(len(z)) or _one(0.5)), same),
    "neighbours": model_of(lambda z, W: (z - z.roll(1, 0)) @ W.T, same),
}
"""What one row has that the few have not."""


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_row_is_found(carried: list[bool], name: str) -> None:
    """Then all rows are read."""
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(2))
    found = planned(DIFFERENT[name], x)
    assert carried == [False]
    check_same(found, whole(DIFFERENT[name], x))


@pytest.mark.parametrize("name", ["a loading", "a loading by a little", "a known location", "a scale"])
def test_it_is_the_comparison_that_finds_it(carried: list[bool], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without it the answer is another one."""
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(carrying, "check", lambda *_: None)
    found = planned(DIFFERENT[name], x)
    assert carried == [True]
    with pytest.raises(AssertionError):
        check_same(found, whole(DIFFERENT[name], x))


def test_what_many_rows_alone_do_is_refused(carried: list[bool]) -> None:
    """A branch by their number, of which the few know nothing."""
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(2))
    curved = model_of(lambda z, W: (z if _in_few(len(z)) else z.clamp(max=1e4)) @ W.T, same)
    with pytest.raises(ModelError, match=r'^Site "x": expected a residual that is affine .* nonlinearly through clamp'):
        planned(curved, x)
    assert not carried


@pytest.mark.parametrize("name", AFFINE)
def test_however_it_is_written(carried: list[bool], name: str) -> None:
    """Carried over or not, the same is read."""
    x = 0.1 + torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(3))
    check_same(planned(located(AFFINE[name]), x), whole(located(AFFINE[name]), x))
    assert carried


def test_rows_that_share_latents_are_read_whole(carried: list[bool]) -> None:
    """Which group a row is of is not known of the others."""
    args = random_effects.simulate()
    found = planned(random_effects.intercepts, *args)
    assert not any(carried)
    check_same(found, whole(random_effects.intercepts, *args))


# ---- rows of other arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["factors", "groups", "a mixture of factor analysers", "missing values"])
def test_batches_are_read_by_few_rows(carried: list[bool], name: str) -> None:
    """Those of the first batch, whatever the sizes of the others, down to one row; the fit is that in memory."""
    model, simulate = MODELS[name]
    args = simulate()
    rows = [0, 25, 35, 59, 60]
    batches = [tuple(cut(part, a, b) for part in args) for a, b in itertools.pairwise(rows)]
    first = {n: p.initial for n, p in planned(model, *args).program.parameters.items()}
    carried.clear()
    options: dict[str, Any] = {"starts": first, "tol": 0, "max_steps": 3, "acceleration": None}
    streamed = EM(model, **options).fit_stream(batches)
    assert carried
    assert all(carried)
    pyro.clear_param_store()
    path = EM(model, **options).fit(*args).path
    close(tensor(streamed.path), tensor(path))


def cut(part: object, first: int, last: int) -> object:
    """Some rows of an argument that has rows."""
    return part[first:last] if isinstance(part, Tensor) else part


def test_a_batch_with_a_covariate_of_its_own_is_read_anew(carried: list[bool]) -> None:
    """Which the few rows do not tell of: the fit is that in memory all the same."""
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(2))
    factor = torch.ones(ROWS, 1).index_fill(0, tensor(OTHER), 2.0)

    def model(x: Tensor, factor: Tensor) -> None:
        model_of(lambda z, W: z @ W.T * factor, same)(x)

    options: dict[str, Any] = {"tol": 0, "max_steps": 3, "acceleration": None}
    pyro.clear_param_store()
    streamed = EM(model, **options).fit_stream([(x[:30], factor[:30]), (x[30:], factor[30:])])
    assert False in carried
    pyro.clear_param_store()
    close(tensor(streamed.path), tensor(EM(model, **options).fit(x, factor).path))
