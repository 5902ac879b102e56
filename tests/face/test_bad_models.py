"""Models that exact EM cannot treat: a clear error with the site and the remedy, and nothing changed."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.refusals import X, refuse, store, unchanged
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor, tensor

from em_pyro import EM, ModelError

pytestmark = pytest.mark.usefixtures("earlier_values")


def test_a_continuous_latent_inside_a_data_plate() -> None:
    """Say what to do instead."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            u = pyro.sample("u", dist.Normal(loc[z], 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x)

    def rates(x: Tensor) -> None:
        scale = pyro.param("scale", tensor(1.0))
        with pyro.plate("points", len(x)):
            u = pyro.sample("u", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(u, scale), obs=x)

    refuse("model", r'^Site "u": .*"points".*Gamma.*quadrature.*"u": "maximise"', rates, tensor(X))
    maximise = {"u": "maximise"}
    refuse("model", r'^Site "u": .*depends on the discrete latent "z"', model, tensor(X), continuous=maximise)


def test_a_prior_that_depends_on_a_discrete_latent() -> None:
    """Outside of the plates, too: its law would have to be summed over the states."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        u = pyro.sample("u", dist.Normal(tensor([-1.0, 1.0])[z], 1.0))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(u, 1.0), obs=x)

    refuse("model", r'^Site "u": .*depends on the discrete latent "z"', model, tensor(X))


@pytest.mark.parametrize("law", [lambda: dist.Poisson(tensor(3.0)), lambda: dist.Geometric(tensor(0.3))])
def test_a_discrete_latent_with_infinite_support(law: Callable[[], Any]) -> None:
    """It cannot be enumerated: truncate it."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            n = pyro.sample("n", law())
            pyro.sample("x", dist.Normal(n + loc[0], 1.0), obs=x)

    refuse("model", r'^Site "n": expected .*finite support, got (Poisson|Geometric)\. Truncate', model, tensor(X))


def test_a_support_that_differs_by_row() -> None:
    """A Binomial latent with a total for each row."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            n = pyro.sample("n", dist.Binomial(tensor([1.0, 2.0, 3.0]), 0.5))
            pyro.sample("x", dist.Normal(n + loc[0], 1.0), obs=x)

    refuse("model", r'^Site "n": expected one support for all rows', model, tensor(X))


def test_nothing_observed() -> None:
    """A forgotten `obs=`."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.deterministic("mean", loc[z])

    refuse("model", r"^The model: expected at least one observed site, got none\. .*obs=", model, tensor(X))


def no_parameters(x: Tensor) -> None:
    """Mix two known normals."""
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(tensor([-1.0, 1.0])[z], 1.0), obs=x)


def test_no_parameters() -> None:
    """An error of `fit` and `step` only: the posterior of a known model is a fair question."""
    refuse("model", r"^The model: expected at least one parameter", no_parameters, tensor(X), methods="fit step")
    law = EM(no_parameters).posterior(tensor(X))
    w = torch.softmax(-0.5 * (tensor(X)[:, None] - tensor([-1.0, 1.0])) ** 2, -1)
    assert torch.allclose(law.marginal("z"), w)
    assert EM(no_parameters).plan(tensor(X)).lines == {}
    assert dict(EM(no_parameters).params) == {}


@pytest.mark.parametrize("how", ["subsample_size", "subsample"])
def test_subsampled_plates(how: str) -> None:
    """Exact EM sums over all rows."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        options: dict[str, Any] = {"subsample_size": 2} if how == "subsample_size" else {"subsample": tensor([0, 2])}
        with pyro.plate("points", len(x), **options) as rows:
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x[rows])

    refuse("model", r'^Plate "points": expected all 3 rows, got a subsample of 2\. ', model, tensor(X))


def test_crossed_plates() -> None:
    """A latent for each row and one for each column, that meet in every cell."""

    def model(x: Tensor) -> None:
        loc = pyro.param("table", tensor([[-1.0, 1.0], [0.5, 2.0]]))
        rows, columns = pyro.plate("rows", x.shape[0], dim=-2), pyro.plate("columns", x.shape[1], dim=-1)
        with rows:
            a = pyro.sample("a", dist.Categorical(tensor([0.5, 0.5])))
        with columns:
            b = pyro.sample("b", dist.Categorical(tensor([0.5, 0.5])))
        with rows, columns:
            pyro.sample("x", dist.Normal(loc[a, b], 1.0), obs=x)

    refuse("model", r"^Latent sites .*plates that cross.*(rows|columns)", model, torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("whole", [True, False], ids=["config_enumerate", "infer"])
def test_sequential_enumeration(whole: bool) -> None:  # noqa: FBT001
    """Model-side sequential enumeration is Monte Carlo in Pyro: refused."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            infer = {} if whole else {"enumerate": "sequential"}
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])), infer=infer)
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    program = config_enumerate(model, default="sequential") if whole else model
    refuse("model", r'^Site "z": expected parallel enumeration, got sequential', program, tensor(X))


def test_obs_mask_on_a_continuous_site() -> None:
    """Point to `.mask`."""

    def counts(x: Tensor, seen: Tensor) -> None:
        rate = pyro.param("rate", tensor(1.0))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x, obs_mask=seen)

    seen = tensor([True, False, True])
    refuse(
        "model", r'^Site "x": expected .* got an obs_mask on Poisson\. .*fn\.mask\(', counts, tensor(X).round(), seen
    )


def scaled(latent: bool, observed: bool) -> Callable[[Tensor, Tensor], None]:  # noqa: FBT001
    """Weigh the latent's factor, the observed one, or both."""

    def model(x: Tensor, counts: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            with poutine.scale(scale=counts if latent else 1.0):
                z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            with poutine.scale(scale=counts if observed else 1.0):
                pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    return model


@pytest.mark.parametrize(("latent", "observed"), [(True, False), (False, True)])
def test_a_scale_that_not_every_site_of_its_plate_carries(latent: bool, observed: bool) -> None:  # noqa: FBT001
    """The error names the two sites."""
    refuse("model", r'"z".*"x"|"x".*"z"', scaled(latent, observed), tensor(X), tensor([1.0, 2.0, 3.0]))


def test_a_scale_that_every_site_carries_is_an_ordinary_program() -> None:
    """Counts are weights."""
    assert EM(scaled(latent=True, observed=True)).fit(tensor(X), tensor([1.0, 2.0, 3.0])).converged


def test_two_statements_of_one_name() -> None:
    """Pyro keeps the last of them; nothing here does so in silence."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.25, 1.5]))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(loc[0], 1.0), obs=x)
            pyro.sample("x", dist.Normal(loc[1], 1.0), obs=x)

    refuse("model", r'^Site "x": expected one statement of that name, got two\.', model, tensor(X))


def test_a_site_named_as_its_plate() -> None:
    """A latent and a plate of one name would be one dimension."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.25, 1.5]))
        with pyro.plate("z", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("model", r'^Site "z": expected a name of its own, got that of a plate\. Rename', model, tensor(X))


@pytest.mark.parametrize("rows", [None, 4])
def test_a_batch_outside_its_plates(rows: int | None) -> None:
    """Three values without a plate, or in a plate of four."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.25, 1.5]))
        with nullcontext() if rows is None else pyro.plate("points", rows):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    within = "none" if rows is None else '"points" \\(4\\)'
    refuse("model", rf'^Site "x": expected a batch .*, got \(3,\) within plates {within}\.', model, tensor(X))


def test_mixture_same_family() -> None:
    """Point to writing the assignment."""

    def model(x: Tensor) -> None:
        parts = dist.Normal(pyro.param("loc", tensor([-1.0, 1.0])), 1.0)
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(tensor([0.5, 0.5])), parts), obs=x)

    refuse("model", r'^Site "x": .*assignment.*pyro\.sample\("z"', model, tensor(X))


def test_not_a_model() -> None:
    """What cannot be called."""
    with pytest.raises(ModelError, match="expected a Pyro model .a callable., got int"):
        EM(3)  # type: ignore[arg-type]


# ---- programs that are wrong in silence ------------------------------------------------------------------------------


def test_a_branch_on_a_sampled_value() -> None:
    """`if z:` itself."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        z = pyro.sample("z", dist.Bernoulli(tensor(0.5)))
        pyro.sample("x", dist.Normal(loc[1] if z else loc[0], 1.0), obs=x)

    refuse("model", r"torch\.where|branch", model, tensor(0.5))


def test_an_error_of_the_model_itself_is_the_user_s() -> None:
    """Nothing is dressed up: the model's own exception comes through, and the store is as it was."""

    def model(x: Tensor) -> None:
        pyro.param("loc", tensor([-1.0, 1.0]))
        pyro.param("fresh", tensor(0.0))
        raise KeyError("the user's own")

    before = store()
    with pytest.raises(KeyError, match="the user's own"):
        EM(model).fit(tensor(X))
    unchanged(before)


def test_a_model_that_draws_random_numbers() -> None:
    """Its arguments differ from one run to the next, whatever the latents are."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0])) + 0.1 * torch.randn(2)
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("model", r'^Site "x": expected argument "loc" to be the same', model, tensor(X))
