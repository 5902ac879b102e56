"""Statements that cannot be carried out, and arguments that a model changes: named, with the remedy."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.refusals import refuse
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.program.data import passed

X = tensor([0.1, -0.4, 2.9, 3.3], dtype=torch.float64)
HALVES = torch.full((2,), 0.5, dtype=torch.float64)
LOC = tensor([0.0, 3.0], dtype=torch.float64)
Law = Callable[[Tensor], Any]


def mixture(law: Law, *, size: Any = 4, **options: Any) -> Callable[[Tensor], None]:
    """Observe a law at the location of a state, within a plate of some size."""

    def model(x: Tensor) -> None:
        loc = pyro.param("mixture.loc", LOC, **options)
        with pyro.plate("rows", size):
            z = pyro.sample("z", dist.Categorical(HALVES))
            pyro.sample("x", law(loc[z]), obs=x)

    return model


LAWS: dict[str, tuple[Law, str]] = {
    "a tensor": (lambda loc: loc, r"expected a distribution of pyro\.distributions, got Tensor\. "),
    "nothing": (lambda loc: None, r"expected a distribution of pyro\.distributions, got NoneType\. "),
    "torch's own": (
        lambda loc: torch.distributions.Normal(loc, 1.0),
        r"expected .* got torch's own Normal\. Import it from pyro",
    ),
    "of two sizes": (
        lambda loc: dist.MultivariateNormal(loc[..., None].expand(*loc.shape, 2), torch.eye(3).double()),
        r'expected arguments of MultivariateNormal that go .* got .*loc \(.*2\).*3, 3.* within plates "rows" \(4\)',
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_site_of_no_law(name: str) -> None:
    """The site is named, and what it was given."""
    law, pattern = LAWS[name]
    refuse("model", f'^Site "x": {pattern}', mixture(law), X)


def test_a_vector_of_discrete_latents() -> None:
    """Its states are not enumerated together."""

    def model(x: Tensor) -> None:
        loc = pyro.param("mixture.loc", LOC)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(HALVES).to_event(1))
            pyro.sample("x", dist.Normal((z * loc).sum(-1), 1.0), obs=x)

    refuse("model", r'^Site "z": .* got Bernoulli with an event of shape \(2,\)\. Sample its', model, X)


def test_a_law_that_no_plate_can_expand() -> None:
    """A class without a method for it."""

    class Own(dist.Normal):
        """Take another argument, and forget `expand`."""

        def __init__(self, loc: Tensor) -> None:
            super().__init__(loc, 1.0)

    refuse("model", r'^Site "x": expected a distribution that its plates expand, got Own', mixture(Own), X)


@pytest.mark.parametrize("size", [X.shape, "four", [4]])
def test_a_plate_of_no_size(size: Any) -> None:
    """The plate is named."""
    said = r'^Plate "rows": expected a whole number as its size, got .* Pass len\(data\)'
    refuse("model", said, mixture(lambda loc: dist.Normal(loc, 1.0), size=size), X)


@pytest.mark.parametrize(("constraint", "got"), [("positive", "'positive'"), (constraints.greater_than, "a class")])
def test_what_is_no_constraint(constraint: Any, got: str) -> None:
    """A word, or a class without its bounds."""
    model = mixture(lambda loc: dist.Normal(loc, 1.0), constraint=constraint)
    refuse("model", f'^Parameter "mixture.loc": expected a constraint of torch.*, got {got}', model, X)


@pytest.mark.parametrize(("name", "kind"), [("z", "site"), ("x", "site"), ("rows", "plate")])
def test_a_parameter_with_the_name_of_another_thing(name: str, kind: str) -> None:
    """No trace of Pyro's could hold both."""

    def model(x: Tensor) -> None:
        loc = pyro.param(name, LOC)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(HALVES))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("model", f'^Parameter "{name}": expected a name of its own, got that of a {kind}', model, X)


def appended(rows: list[float]) -> None:
    """Append to a list that was passed."""
    rows.append(1.0)
    mixture(lambda loc: dist.Normal(loc, 1.0), size=len(rows))(torch.tensor(rows, dtype=torch.float64))


def taken(rows: dict[str, Tensor]) -> None:
    """Take the data out of a dict."""
    mixture(lambda loc: dist.Normal(loc, 1.0))(rows.pop("x"))


@pytest.mark.parametrize(("model", "data"), [(appended, X.tolist), (taken, lambda: {"x": X})])
def test_a_model_that_changes_what_holds_its_data(model: Callable[..., None], data: Callable[[], Any]) -> None:
    """The error is that of the change, not of what comes of it."""
    for method in ("plan", "step", "fit", "posterior"):
        refuse("model", r"^Argument 1 of the model: expected the same .* writes into", model, data(), methods=method)


def test_a_cache_in_an_argument_is_the_models_own_affair() -> None:
    """Where nothing goes wrong, a dict may be written to."""

    def model(x: Tensor, known: dict[str, int]) -> None:
        known["rows"] = len(x)
        mixture(lambda loc: dist.Normal(loc, 1.0), size=known["rows"])(x)

    pyro.clear_param_store()
    assert EM(model).fit(X, {}).converged


def test_a_shape_that_no_state_and_no_enumeration_has() -> None:
    """What runs with one state and not with all is said of the model, also where the state needs no dimension."""
    model = mixture(lambda loc: dist.Normal(loc, 1.0).expand([4]))
    refuse("model", r'^The model: expected to run with all states of its latents at once, "z" \(2\), got', model, X)


def test_without_the_look_torch_is_left_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of frames, not of the site."""
    monkeypatch.setattr(passed, "at_statement", lambda error: "")
    pyro.clear_param_store()
    with pytest.raises(RuntimeError, match=r"^The expanded size of the tensor"):
        EM(mixture(LAWS["of two sizes"][0])).plan(X)
