"""Bad input: a clear error of the right class, in the form site, expected, got, remedy, and nothing changed."""

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro
from em_pyro import EM, DataError, EMError, Fit, ModelError, ObjectiveError, ParameterError, PlanError


def store() -> dict[str, Any]:
    """Everything that the param store holds, bit for bit."""
    held = pyro.get_param_store()
    values = {name: (id(value), value.detach().clone(), value._version) for name, value in held._params.items()}
    return {"values": values, "constraints": dict(held._constraints), "modules": dict(held._param_to_name)}


def unchanged(before: dict[str, Any]) -> None:
    """Assert that the store is what it was, and that no name was added."""
    after = store()
    assert after["constraints"] == before["constraints"]
    assert after["values"].keys() == before["values"].keys()
    assert len(after["modules"]) == len(before["modules"])
    for name, (identity, value, version) in before["values"].items():
        assert after["values"][name][0] == identity
        assert after["values"][name][2] == version
        assert torch.equal(after["values"][name][1], value)


@pytest.fixture(autouse=True)
def earlier_values() -> None:
    """A store that another run has left behind: a parameter of the models below, and one of somebody else's."""
    pyro.param("loc", tensor([-1.25, 1.5]))
    pyro.param("other", tensor([0.25]), constraint=constraints.positive)


CLASSES: dict[str, type[EMError]] = {
    "data": DataError, "model": ModelError, "parameter": ParameterError, "objective": ObjectiveError, "plan": PlanError,
}  # fmt: skip


FORM = re.compile(r": expected .*, (got|but) .*\. [A-Z].*\.$", re.DOTALL)
"""Site, expected, got, remedy: in that order."""


def refuse(
    kind: str, pattern: str, model: Any, *args: Any, methods: str = "plan step fit posterior", **options: Any
) -> None:
    """Require the error from every method, at once and again, with the store and the generator as they were."""
    before, generator = store(), torch.get_rng_state()
    for method in methods.split():
        with pytest.raises(EMError) as caught:
            getattr(EM(model, **options), method)(*args)
        message = str(caught.value)
        assert type(caught.value) is CLASSES[kind], f"{type(caught.value).__name__}: {message}"
        assert re.search(pattern, message, re.DOTALL), message
        assert FORM.search(message), f"not in house form: {message}"
        unchanged(before)
        assert torch.equal(torch.get_rng_state(), generator)


def points(x: Tensor) -> None:
    """Mix two normals; the parameter `loc` is in the store already."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    scale = pyro.param("scale", tensor([1.0, 2.0]), constraint=constraints.positive)
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


X = (-1.0, 0.5, 2.0)

# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_data_that_is_not_finite(bad: float) -> None:
    """The site and the first bad index."""
    x = tensor([0.0, 1.0, bad, 2.0, bad])
    refuse("data", r'^Site "x": expected finite data, got -?(nan|inf) at index \(2,\)\. ', points, x)


def test_a_table_that_is_not_finite() -> None:
    """The index has the row and the column."""

    def model(x: Tensor) -> None:
        loc = pyro.param("table", torch.arange(6.0).reshape(2, 3))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0).to_event(1), obs=x)

    x = torch.arange(12.0).reshape(4, 3)
    x[2, 1] = torch.nan
    refuse("data", r'^Site "x": .* at index \(2, 1\)\. ', model, x)


def test_a_value_that_is_masked_may_be_nan() -> None:
    """What the program leaves out is not looked at, and does not spoil the closed forms."""

    def model(x: Tensor) -> None:
        loc = pyro.param("centres", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0).mask(x == x), obs=x)

    full = EM(model).fit(tensor([-1.0, 0.5, 2.0]))
    pyro.get_param_store().__delitem__("centres")
    holes = EM(model).fit(tensor([-1.0, torch.nan, 0.5, 2.0]))
    assert torch.allclose(full.params["centres"], holes.params["centres"])


SUPPORTS: dict[str, tuple[Callable[[Tensor], Any], Tensor, str]] = {
    "Poisson": (lambda r: dist.Poisson(r), tensor([1.0, -1.0]), r"got -1\.0 at index \(1,\)"),
    "Poisson, a fraction": (lambda r: dist.Poisson(r), tensor([1.0, 2.5]), r"got 2\.5 at index \(1,\)"),
    "Exponential": (lambda r: dist.Exponential(r), tensor([1.0, 2.0, -0.5]), r"got -0\.5 at index \(2,\)"),
    "LogNormal": (lambda r: dist.LogNormal(0.0, r), tensor([1.0, 0.0]), r"got 0\.0 at index \(1,\)"),
    "Bernoulli": (lambda r: dist.Bernoulli(r / 9), tensor([1.0, 0.0, 2.0]), r"got 2\.0 at index \(2,\)"),
    "Binomial": (lambda r: dist.Binomial(5, r / 9), tensor([5.0, 6.0]), r"got 6\.0 at index \(1,\)"),
    "Geometric": (lambda r: dist.Geometric(r / 9), tensor([-2.0]), r"got -2\.0 at index \(0,\)"),
    "Categorical": (
        lambda r: dist.Categorical(torch.ones(3) * r[..., None]), tensor([0, 2, 3]), r"got 3 at index \(2,\)",
    ),
    "Multinomial": (
        lambda r: dist.Multinomial(3, torch.ones(2) * r[..., None]), tensor([[1.0, 2.0], [4.0, -1.0]]),
        r"at index \(1,\)",
    ),
    "OneHotCategorical": (
        lambda r: dist.OneHotCategorical(torch.ones(2) * r[..., None]), tensor([[1.0, 0.0], [1.0, 1.0]]),
        r"at index \(1,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPPORTS)
def test_data_outside_the_support(name: str) -> None:
    """The site, the support, the value and the first bad index."""
    law, data, got = SUPPORTS[name]

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", tensor([0.7, 3.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("y", law(rate[z]), obs=x)

    refuse("data", f'^Site "y": expected values within .*{got}', model, data)


def test_more_heads_than_flips_in_one_row() -> None:
    """A support that differs by row."""
    heads, flips = tensor([5.0, 7.0, 3.0]), tensor([10.0, 6.0, 9.0])
    refuse("data", r'^Site "heads": .* got 7\.0 at index \(1,\)', coins.coins, heads, flips)


def test_an_empty_plate() -> None:
    """No rows."""
    refuse("data", r'^Plate "points": expected at least one row, got none\. ', points, torch.zeros(0))


def test_an_impossible_observation() -> None:
    """A row whose posterior weights sum to zero: site and index."""

    def model(y: Tensor) -> None:
        pyro.param("loc", tensor([-1.0, 1.0]))
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        tables = tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Categorical(logits=tables[z]), obs=y)

    refuse("data", r'^Site "y": .* index 3', model, tensor([0, 1, 0, 2, 0, 2]), methods="step fit")


def test_an_impossible_sequence() -> None:
    """A chain that cannot have made its observations."""

    def model(y: Tensor) -> None:
        start = pyro.param("start", tensor([0.5, 0.5]), constraint=constraints.simplex)
        tables, stay = torch.eye(2).log(), torch.eye(2).log()
        x: Any = None
        for t in pyro.markov(range(len(y))):
            x = pyro.sample(f"x_{t}", dist.Categorical(start) if x is None else dist.Categorical(logits=stay[x]))
            pyro.sample(f"y_{t}", dist.Categorical(logits=tables[x]), obs=y[t])

    refuse("data", r'^Site "y_\d": .* impossible', model, tensor([0, 0, 1]), methods="step fit")


def test_an_impossible_observation_later_is_no_start() -> None:
    """The posterior of impossible data is an error as well, not a table of NaN."""

    def model(y: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Categorical(logits=tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()[z]), obs=y)

    refuse("data", r'^Site "y": .* index 1', model, tensor([0, 2]), methods="posterior")


# ---- the model -------------------------------------------------------------------------------------------------------


def test_a_continuous_latent_inside_a_data_plate() -> None:
    """Say what to do instead."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            u = pyro.sample("u", dist.Normal(loc[z], 1.0))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x)

    refuse("model", r'^Site "u": .*"points".*Normal.*quadrature.*out of the plate', model, tensor(X))


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

    def model(x: Tensor, seen: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x, obs_mask=seen)

    seen = tensor([True, False, True])
    refuse("model", r'^Site "x": expected obs_mask on a discrete site.*\.mask\(', model, tensor(X), seen)


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


# ---- parameters and options ------------------------------------------------------------------------------------------


def test_a_start_outside_its_constraint() -> None:
    """A model's own start: the parameter, its constraint and the value."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        scale = pyro.param("scale", tensor([1.0, -2.0]), constraint=constraints.positive)
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    pattern = r'^Parameter "scale": expected its start within Greater.*, got \[1\.0, -2\.0\]'
    refuse("parameter", pattern, model, tensor(X))


def test_a_start_that_is_nan() -> None:
    """Not a number is within no constraint."""

    def model(x: Tensor) -> None:
        loc = pyro.param("start", tensor([-1.0, torch.nan]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("parameter", r'^Parameter "start": expected its start within Real', model, tensor(X))


def test_a_start_of_another_shape() -> None:
    """The store was filled by another model."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 0.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("parameter", r'^Parameter "loc": expected its start of shape \(3,\), got \(2,\)', model, tensor(X))


GIVEN: dict[str, tuple[Any, str]] = {
    "outside its constraint": ({"scale": tensor([1.0, -1.0])}, r'"scale": expected its start within'),
    "on its boundary": ({"scale": tensor([1.0, 0.0])}, r'"scale": expected its start within'),
    "of the wrong shape": ({"loc": tensor([1.0, 2.0, 3.0])}, r'"loc": expected its start of shape \(2,\), got \(3,\)'),
    "not a number": ({"loc": tensor([1.0, torch.nan])}, r'"loc": expected its start'),
    "unknown": ({"mean": tensor([1.0, 2.0])}, r"^starts: expected names among \['loc', 'scale'\], got \"mean\""),
    "second of a list": ([{}, {"scale": tensor([1.0, -1.0])}], r'"scale": expected its start within'),
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_starts(name: str) -> None:
    """Of every start before the first is followed."""
    starts, pattern = GIVEN[name]
    refuse("parameter", pattern, points, tensor(X), methods="fit", starts=starts)


def test_an_unknown_name_in_m_step() -> None:
    """The error lists the names there are."""
    pattern = r"^m_step: expected names among \['loc', 'scale'\], got \"mean\""
    refuse("parameter", pattern, points, tensor(X), m_step={"mean": "torch"})


def test_an_unknown_m_step() -> None:
    """The error lists the choices."""
    pattern = r'^m_step\["loc"\]: expected "torch", "closed", "fixed" or a callable, got'
    refuse("parameter", pattern, points, tensor(X), m_step={"loc": "newton"})


def test_a_closed_form_where_there_is_none() -> None:
    """With the plan's why."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Laplace(loc[z].sin(), 1.0), obs=x)

    refuse("plan", r'^m_step\["loc"\]: expected a closed form', model, tensor(X), m_step={"loc": "closed"})


@pytest.mark.parametrize(
    "options",
    [{"tol": -1.0}, {"max_steps": -1}, {"starts": 0}, {"starts": True}, {"starts": -3}],
    ids=lambda o: str(o),
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    """At once, before any model runs."""
    with pytest.raises(ParameterError, match="expected"):
        EM(points, **options)


def test_no_starts_at_all() -> None:
    """An empty list."""
    refuse("parameter", "expected at least one start, got an empty list", points, tensor(X), methods="fit", starts=[])


def test_an_unknown_option() -> None:
    """Options are keyword-only, and there are no others."""
    with pytest.raises(TypeError):
        EM(points, steps=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        EM(points, 1e-8)  # type: ignore[misc]


def test_an_unknown_name_asked_of_a_plan_or_a_posterior() -> None:
    """The error lists what there is."""
    with pytest.raises(ParameterError, match=r"expected one of \['loc', 'scale'\], got \"mean\""):
        EM(points).plan(tensor(X))["mean"]
    with pytest.raises(ParameterError, match=r"expected one of the latent sites \['z'\], got \"x\""):
        EM(points).posterior(tensor(X)).marginal("x")


def test_an_m_step_of_the_user_s_that_is_no_value() -> None:
    """Outside its constraint, of another shape, or one that lets `Q` fall."""
    x = tensor(X)
    calls: list[tuple[str, Any]] = [
        ("parameter", lambda statistics, value: -value),
        ("parameter", lambda statistics, value: value[:1]),
        ("objective", lambda statistics, value: value + 50),
    ]
    for kind, call in calls:
        name = "scale" if kind == "parameter" else "loc"
        refuse(kind, rf'^m_step\["{name}"\]: expected', points, x, methods="step fit", m_step={name: call})


def test_tensors_on_different_devices() -> None:
    """Meta tensors stand for another device; both are named."""
    x = torch.zeros(3, device="meta")
    refuse("data", r"^Site \"x\": expected data and parameters on one device, got \['cpu', 'meta'\]", points, x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is one device here")
def test_data_on_another_device() -> None:
    """Parameters on the CPU, data on the accelerator."""
    refuse("data", r'^Site "x": expected data and parameters on one device', points, tensor(X).cuda())


def test_a_non_finite_objective_at_the_start() -> None:
    """Finite data and parameters, and a density that is not a number."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
            pyro.factor("penalty", (loc.sum() - 1e6).sqrt() * torch.ones(len(x)))

    refuse("objective", r"^Start: expected a finite objective, got nan\. ", model, tensor(X), methods="fit step")


def test_an_objective_that_overflows_at_the_start() -> None:
    """A start so far away that the objective is minus infinity."""
    with pytest.raises((DataError, ObjectiveError)) as caught:
        EM(points, starts={"loc": tensor([1e200, 1e200])}).fit(tensor(X))
    assert "expected" in str(caught.value)


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


# ---- what is not bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", [torch.float32, torch.float64])
def test_dtypes_are_promoted(parameters: torch.dtype, data: torch.dtype) -> None:
    """Single and double precision mix as torch mixes them; the answer has the parameter's dtype."""

    def model(x: Tensor) -> None:
        loc = pyro.param("centres", tensor([-1.0, 1.0], dtype=parameters))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=parameters)))
            pyro.sample("x", dist.Normal(loc[z], tensor(1.0, dtype=parameters)), obs=x)

    fit = EM(model).fit(tensor([-1.0, -1.5, 2.0, 1.75, 0.5], dtype=data))
    assert fit.converged
    assert fit.params["centres"].dtype == parameters
    assert pyro.param("centres").dtype == parameters


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_integer_counts(dtype: torch.dtype) -> None:
    """Counts may be integers, of heads and of tosses."""
    fit = EM(coins.equal_coins).fit(tensor([5, 9, 8, 4, 7], dtype=dtype), tensor(10, dtype=dtype).expand(5))
    assert abs(fit.log_likelihood + 9.7969242922216) < (1e-5 if dtype == torch.float32 else 1e-6)


def test_an_interrupt_keeps_the_best_so_far() -> None:
    """Ctrl-C during `fit` is raised again, with the values in the store, in `EM.params` and the partial `Fit`."""

    def interrupt(state: Any) -> None:
        if state.step == 3:
            raise KeyboardInterrupt

    em = EM(points, callback=interrupt, tol=1e-14)
    with pytest.raises(KeyboardInterrupt):
        em.fit(tensor([-1.0, -1.5, 2.0, 1.75, 0.5, 3.0]))
    assert isinstance(em.last, Fit)
    assert em.last.outcome == "interrupted"
    assert not em.last.converged
    assert em.last.num_steps == 3
    for name, value in em.last.params.items():
        assert torch.allclose(pyro.param(name), value, rtol=1e-14)
        assert torch.allclose(em.params[name], value, rtol=1e-14)
    pyro.clear_param_store()
    pyro.param("loc", tensor([-1.25, 1.5]))
    path = EM(points, max_steps=3, tol=0).fit(tensor([-1.0, -1.5, 2.0, 1.75, 0.5, 3.0])).path
    assert em.last.path == pytest.approx(path, rel=1e-12)


def test_every_exception_is_one_to_catch() -> None:
    """All are `EMError`s, and of the built-in class that a caller would expect."""
    for kind in (DataError, ModelError, ParameterError, PlanError):
        assert issubclass(kind, EMError)
        assert issubclass(kind, ValueError)
    assert issubclass(ObjectiveError, RuntimeError)
    assert {c.__name__ for c in CLASSES.values()} <= set(em_pyro.__all__)
