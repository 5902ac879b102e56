"""Steps that fail: what is said of them, and that nothing is changed."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.loops import equal, mixture, points, stored
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, EMError, ObjectiveError, ParameterError


@pytest.mark.parametrize("value", ["0", [[1.0], [2.0, 3.0]], object()], ids=["word", "ragged", "object"])
def test_a_start_that_is_no_tensor_is_refused(value: Any) -> None:
    """By its name, from every method."""
    em = EM(mixture, starts={"loc": value})
    asks: list[Callable[[], Any]] = [lambda: em.params, lambda: em.step(points()), lambda: em.fit(points())]
    for ask in asks:
        with pytest.raises(ParameterError, match="loc"):
            ask()


def test_a_step_that_runs_off_does_not_blame_the_start() -> None:
    """Where steps before it were sound."""

    def model(x: Tensor) -> None:
        bonus = pyro.param("bonus", torch.zeros(2))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(4.0 * z, 1.0), obs=x)
            pyro.factor("reward", bonus[z].exp())

    em, x, said = EM(model), points(), ""
    for _ in range(300):
        before = stored()
        try:
            em.step(x)
        except EMError as error:
            said = str(error)
            assert equal(stored(), before)
            break
    assert "infinity" in said or "parameter" in said
    assert "Start" not in said


@pytest.mark.parametrize("how", ["closed", "torch"])
def test_a_step_that_fails_changes_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no next value is defined, the store is as it was, and the next call fails alike."""
    from em_pyro.after import driver

    x = points()
    em = EM(mixture, m_step={"loc": how})
    em.step(x)
    before, right = stored(), driver.em_step

    def spoilt(*args: Any) -> Any:
        new, found = right(*args)
        return {**new, "loc": torch.full_like(new["loc"], torch.nan)}, found

    monkeypatch.setattr(driver, "em_step", spoilt)
    for _ in range(2):
        with pytest.raises(ObjectiveError, match="loc") as caught:
            em.step(x)
        assert "random" not in str(caught.value)
        assert equal(stored(), before)
    monkeypatch.setattr(driver, "em_step", right)
    assert torch.isfinite(tensor(em.step(x)))


def test_a_fall_is_explained_by_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing has, nothing is blamed."""
    from em_pyro.fit.endings import guard

    x = points()
    em = EM(mixture)
    em.step(x)
    assert em._prepared is not None
    with pytest.raises(ObjectiveError, match="The model is as it was"):
        guard(em._prepared, -1.0, -2.0, 3)
    x.mul_(2.0)
    with pytest.raises(ObjectiveError, match="argument 0 has changed"):
        guard(em._prepared, -1.0, -2.0, 3)


def test_single_precision_steps_may_go_on_for_ever() -> None:
    """Values are rounded to float32 after every step, so at the top the objective wanders by that."""
    x = points().float()

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 3.0], dtype=x.dtype))
        scale = pyro.param("scale", 1.5 * torch.ones(2, dtype=x.dtype), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=x.dtype)))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    em = EM(model)
    losses = [em.step(x) for _ in range(150)]
    assert losses[-1] == pytest.approx(min(losses), rel=1e-6)


def lines(x: Tensor) -> None:
    """One line through all points."""
    slope, scale = pyro.param("slope", tensor(0.3)), pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(slope * torch.arange(1.0, 1 + len(x)), scale), obs=x)


def clusters(x: Tensor) -> None:
    """Two normals, each with a scale of its own."""
    loc = pyro.param("loc", tensor([0.0, 4.0]))
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


COLLAPSES = {
    "equal values": (clusters, torch.ones(5)),
    "a group of them": (clusters, tensor([0.0, 0.0, 0.0, 4.0, 5.0, 6.0])),
    "points on a line": (lines, 2 * torch.arange(1.0, 6.0)),
}


@pytest.mark.parametrize("kind", COLLAPSES)
def test_a_step_into_a_collapse_is_refused_by_its_name(kind: str) -> None:
    """The scale that collapses is named, with why, and the values before it stay; a fit says the same as its ending."""
    model, x = COLLAPSES[kind]
    em, said = EM(model), ""
    for _ in range(20):
        before = stored()
        try:
            em.step(x)
        except ObjectiveError as error:
            said = str(error)
            break
    assert 'site "x": scale collapsed at' in said
    assert "rows have equal values, or are fitted exactly" in said
    assert equal(stored(), before)
    assert all(bool(torch.isfinite(value).all()) for value in stored().values())
    pyro.clear_param_store()
    assert EM(model).fit(x).outcome == "degenerate"


def test_a_matrix_that_runs_off_gives_numbers() -> None:
    """A plate of such a program, whose first steps lead there: the loss never rises, and a fit says what it is."""

    def run_off(x: Tensor, seen: Tensor) -> None:
        law = pyro.param("law", torch.tensor([0.485, 0.515]), constraint=constraints.simplex)
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
        roots = torch.tensor([[[1.44, 0.0], [-0.43, 0.86]], [[1.1, 0.0], [-0.55, 0.87]]])
        scale_tril = pyro.param("scale_tril", roots, constraint=constraints.lower_cholesky)
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Categorical(law))
            pyro.sample("x", dist.MultivariateNormal(loc[c], scale_tril=scale_tril[c]).mask(seen), obs=x)

    em, x = EM(run_off), torch.tensor([[0.2, 1.48], [1.9, -1.28], [1.7, 1.87], [0.48, 1.35]])
    losses = [em.step(x, torch.arange(4) == 2) for _ in range(10)]
    assert all(new <= old + 1e-6 for old, new in pairwise(losses))
    assert all(bool(torch.isfinite(value).all()) for value in em.params.values())
    pyro.clear_param_store()
    assert EM(run_off).fit(x, torch.arange(4) == 2).outcome == "degenerate"
