"""Every family, every way to write it, every tying: the closed form is the maximum of `Q` that torch finds too."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from m_steps import Model, View, check_closed, same, step
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import solvers

N, K, C, D = 40, 3, 4, 2
TIES = {"none": [0, 1, 2], "some": [0, 0, 1], "all": [0, 0, 0]}
"""Which row of its parameter each of three components uses."""


def draw(seed: int = 0) -> torch.Generator:
    """Seed a generator."""
    return torch.Generator().manual_seed(seed)


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=draw(seed))


def start(tie: str, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Make one row for each level 0, 1, ... of a tying; a parameter that all share has no rows at all."""
    levels = torch.arange(1.0 + max(TIES[tie]))
    return make(levels[0]) if tie == "all" else torch.stack([make(level) for level in levels])


def pick(value: Tensor, tie: str, z: Tensor) -> Tensor:
    """Select the rows of the components `z`."""
    return value if tie == "all" else value[tensor(TIES[tie])[z]]


def mixture(law: Callable[[Tensor], Any]) -> Model:
    """Mix three components with free weights; `law(z)` is the distribution of a row in component `z`."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(z), obs=x)

    return model


# ---- one argument ----------------------------------------------------------------------------------------------------

TOTALS = (torch.arange(N) % 5 + 3).double()


def unit(level: Tensor) -> Tensor:
    """One probability."""
    return 0.25 + 0.2 * level


def row(level: Tensor) -> Tensor:
    """One row of probabilities."""
    return torch.softmax((1 + level) * torch.arange(C) / C, -1)


def logits(level: Tensor) -> Tensor:
    """One row of logits, not normalised."""
    return (1 + level) * torch.arange(C) / C + 0.7


def rate(level: Tensor) -> Tensor:
    """One rate."""
    return 0.6 + 0.9 * level


def softmax(value: Tensor) -> Tensor:
    """Logits count up to a constant."""
    return torch.softmax(value, -1)


Builder = tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor], Any, Callable[[], Tensor], View | None]
"""Distribution of one argument, its start by level, its constraint, the data, and what to compare."""

bits = lambda: (real(N) > 0.3).double()  # noqa: E731
kinds = lambda: (real(N).abs() * 2).long().clamp(max=C - 1)  # noqa: E731
counted = lambda: (real(N, seed=1).abs() * 3).floor()  # noqa: E731
heads = lambda: (TOTALS * torch.sigmoid(real(N))).floor()  # noqa: E731
tables = lambda: (real(N, C).abs() * 3).floor()  # noqa: E731
onehot = lambda: torch.nn.functional.one_hot(kinds(), C).double()  # noqa: E731

ONE: dict[str, Builder] = {
    "Bernoulli probs": (lambda a: dist.Bernoulli(a), unit, constraints.unit_interval, bits, None),
    "Bernoulli logits": (lambda a: dist.Bernoulli(logits=a), lambda k: unit(k).logit(), constraints.real, bits, None),
    "Binomial probs": (lambda a: dist.Binomial(TOTALS, a), unit, constraints.unit_interval, heads, None),
    "Binomial logits": (
        lambda a: dist.Binomial(TOTALS, logits=a), lambda k: unit(k).logit(), constraints.real, heads, None,
    ),
    "Geometric probs": (lambda a: dist.Geometric(a), unit, constraints.unit_interval, counted, None),
    "Geometric logits": (
        lambda a: dist.Geometric(logits=a), lambda k: unit(k).logit(), constraints.real, counted, None,
    ),
    "Categorical probs": (lambda a: dist.Categorical(a), row, constraints.simplex, kinds, None),
    "Categorical logits": (lambda a: dist.Categorical(logits=a), logits, constraints.real, kinds, softmax),
    "OneHotCategorical probs": (lambda a: dist.OneHotCategorical(a), row, constraints.simplex, onehot, None),
    "OneHotCategorical logits": (lambda a: dist.OneHotCategorical(logits=a), logits, constraints.real, onehot, softmax),
    "Multinomial probs": (lambda a: dist.Multinomial(probs=a), row, constraints.simplex, tables, None),
    "Multinomial logits": (lambda a: dist.Multinomial(logits=a), logits, constraints.real, tables, softmax),
    "Poisson": (lambda a: dist.Poisson(a), rate, constraints.positive, counted, None),
    "Exponential": (lambda a: dist.Exponential(a), rate, constraints.positive, lambda: real(N).exp(), None),
}  # fmt: skip


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("name", ONE)
def test_one_argument(name: str, tie: str) -> None:
    """Counts and rates: closed, the maximum, and what torch finds."""
    law, level, constraint, data, view = ONE[name]

    def of(z: Tensor) -> Any:
        return law(pick(pyro.param("argument", start(tie, level), constraint=constraint), tie, z))

    check_closed(mixture(of), data(), views={"argument": view} if view else None)


EVENTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor], Any, Callable[[], Tensor]]] = {
    "Bernoulli": (
        lambda a: dist.Bernoulli(a).to_event(1),
        lambda k: unit(k) + 0.1 * torch.arange(C) / C, constraints.unit_interval, lambda: (real(N, C) > 0.2).double(),
    ),
    "Categorical": (
        lambda a: dist.Categorical(a).to_event(1), lambda k: row(k + torch.arange(2.0)[:, None]), constraints.simplex,
        lambda: (real(N, 2).abs() * 2).long().clamp(max=C - 1),
    ),
    "Poisson, two dimensions": (
        lambda a: dist.Poisson(a).to_event(2), lambda k: rate(k) + torch.arange(6.0).reshape(3, 2) / 3,
        constraints.positive, lambda: (real(N, 3, 2).abs() * 3).floor(),
    ),
    "Multinomial": (
        lambda a: dist.Multinomial(probs=a).to_event(1), lambda k: row(k + torch.arange(2.0)[:, None]),
        constraints.simplex, lambda: (real(N, 2, C).abs() * 3).floor(),
    ),
    "Exponential": (
        lambda a: dist.Exponential(a).to_event(1), lambda k: rate(k) + torch.arange(C) / C, constraints.positive,
        lambda: real(N, C).exp(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("name", EVENTS)
def test_events(name: str, tie: str) -> None:
    """A `to_event` makes rows of independent arguments, each with a closed form."""
    law, level, constraint, data = EVENTS[name]

    def of(z: Tensor) -> Any:
        return law(pick(pyro.param("argument", start(tie, level), constraint=constraint), tie, z))

    check_closed(mixture(of), data())


def test_an_event_may_share_its_argument() -> None:
    """One probability for all items of a component: the counts of all items are pooled."""

    def of(z: Tensor) -> Any:
        p = pyro.param("p", tensor([0.3, 0.5, 0.6]), constraint=constraints.unit_interval)
        return dist.Bernoulli(p[z].unsqueeze(-1)).expand_by([]).expand((*z.shape[:-1], N, C)).to_event(1)

    check_closed(mixture(of), (real(N, C) > 0.2).double())


# ---- Normal and LogNormal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", TIES)
@pytest.mark.parametrize("locs", TIES)
@pytest.mark.parametrize("law", [dist.Normal, dist.LogNormal])
def test_normal(law: Any, locs: str, scales: str) -> None:
    """Location and scale, each tied in its own way; where a shared location meets several scales it is swept."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", start(locs, lambda k: 1.5 * k - 1))
        scale = pyro.param("scale", start(scales, lambda k: 0.7 + 0.4 * k), constraint=constraints.positive)
        return law(pick(loc, locs, z), pick(scale, scales, z))

    x = real(N) * 2 + 0.5
    shared = any(
        len({b for a, b in zip(TIES[locs], TIES[scales], strict=True) if a == level}) > 1 for level in TIES[locs]
    )
    swept = ("loc", "scale") if shared else ()
    check_closed(mixture(of), x.exp() if law is dist.LogNormal else x, swept=swept)


@pytest.mark.parametrize("scales", ["each", "by component", "by coordinate", "one"])
def test_normal_events(scales: str) -> None:
    """Rows of coordinates: a scale for each, for each component, for each coordinate, and one for all."""
    shape = {"each": (K, D), "by component": (K, 1), "by coordinate": (D,), "one": ()}[scales]

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", real(K, D, seed=2))
        scale = pyro.param("scale", 0.8 + 0.1 * torch.rand(shape, generator=draw()), constraint=constraints.positive)
        return dist.Normal(loc[z], scale[z] if len(shape) == 2 else scale).to_event(1)

    check_closed(mixture(of), real(N, D) * 2)


# ---- MultivariateNormal ----------------------------------------------------------------------------------------------

MATRICES = {
    "scale_tril": constraints.lower_cholesky,
    "covariance_matrix": constraints.positive_definite,
    "precision_matrix": constraints.positive_definite,
}


def matrix(argument: str) -> Callable[[Tensor], Tensor]:
    """One matrix by level."""
    shape = tensor([[1.0, 0.0], [0.4, 1.2]])
    return lambda k: (1 + k / 3) * (shape if argument == "scale_tril" else shape @ shape.T)


@pytest.mark.parametrize("scales", TIES)
@pytest.mark.parametrize("locs", TIES)
@pytest.mark.parametrize("argument", MATRICES)
def test_multivariate_normal(argument: str, locs: str, scales: str) -> None:
    """Three ways to write the covariance, and three tyings of each argument."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", start(locs, lambda k: tensor([1.5, -0.5]) * k - 1))
        value = pyro.param(argument, start(scales, matrix(argument)), constraint=MATRICES[argument])
        return dist.MultivariateNormal(pick(loc, locs, z), **{argument: pick(value, scales, z)})

    shared = any(
        len({b for a, b in zip(TIES[locs], TIES[scales], strict=True) if a == level}) > 1 for level in TIES[locs]
    )
    x = real(N, D) @ tensor([[1.0, 0.5], [0.0, 1.3]])
    check_closed(mixture(of), x, swept=("loc", argument) if shared else ())


# ---- known arguments stay known --------------------------------------------------------------------------------------


def responsibilities(model: Model, *args: Any) -> Tensor:
    """Posterior of the components at the start, shape `(N, K)`, by Bayes' rule on the trace of Pyro."""
    columns = []
    for k in range(K):
        trace = poutine.trace(poutine.condition(model, {"z": torch.full((N,), k)})).get_trace(*args)
        trace.compute_log_prob()
        columns.append(trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"])
    return torch.softmax(torch.stack(columns, -1), -1).detach()


def test_known_scales_by_row() -> None:
    """The mean is precision-weighted: `sum w x / s^2` over `sum w / s^2`."""
    x, s = real(N) * 2, 0.5 + torch.rand(N, generator=draw())
    model = mixture(lambda z: dist.Normal(pyro.param("loc", tensor([-1.0, 0.5, 2.0]))[z], s))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    precision = w / s[:, None] ** 2
    same(new["loc"], (precision * x[:, None]).sum(0) / precision.sum(0))
    same(new["weights"], w.mean(0))


def test_known_locations_by_row() -> None:
    """The variance is around the known location of each row."""
    x, m = real(N) * 2, real(N, seed=3)
    scale = tensor([0.6, 1.1, 2.0])
    model = mixture(lambda z: dist.Normal(m, pyro.param("scale", scale, constraint=constraints.positive)[z]))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    same(new["scale"], ((w * (x - m)[:, None] ** 2).sum(0) / w.sum(0)).sqrt())


def test_scales_up_to_a_known_factor() -> None:
    """Known accuracies of the rows multiply an unknown scale."""
    x, s = real(N) * 2, 0.5 + torch.rand(N, generator=draw())

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
        return dist.Normal(loc[z], s * pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)[z])

    model = mixture(of)
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    precision = w / s[:, None] ** 2
    loc = (precision * x[:, None]).sum(0) / precision.sum(0)
    same(new["loc"], loc)
    same(new["scale"], ((precision * (x[:, None] - loc) ** 2).sum(0) / w.sum(0)).sqrt())


def test_known_total_counts_by_row() -> None:
    """The probability is heads over tosses."""
    x = heads()
    bias = tensor([0.2, 0.5, 0.7])
    model = mixture(
        lambda z: dist.Binomial(TOTALS, pyro.param("bias", bias, constraint=constraints.unit_interval)[z])
    )
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    same(new["bias"], (w * x[:, None]).sum(0) / (w * TOTALS[:, None]).sum(0))


@pytest.mark.parametrize("law", [dist.Poisson, dist.Exponential])
def test_known_exposures_by_row(law: Any) -> None:
    """The rate is events over exposure, for counts and for waiting times."""
    exposure = 0.5 + torch.rand(N, generator=draw())
    x = counted() if law is dist.Poisson else real(N).exp()
    rates = tensor([0.6, 1.4, 3.0])
    model = mixture(lambda z: law(exposure * pyro.param("rate", rates, constraint=constraints.positive)[z]))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    events = x[:, None].expand(N, K) if law is dist.Poisson else torch.ones(N, K)
    time = exposure if law is dist.Poisson else exposure * x
    same(new["rate"], (w * events).sum(0) / (w * time[:, None]).sum(0))


def test_known_covariances_by_row() -> None:
    """Multivariate means under a known covariance of each row: a weighted system of equations."""
    x, s = real(N, D) * 2, 0.5 + torch.rand(N, generator=draw())
    root = s[:, None, None] * tensor([[1.0, 0.0], [0.4, 1.2]])
    loc = real(K, D, seed=2)
    model = mixture(lambda z: dist.MultivariateNormal(pyro.param("loc", loc)[z], scale_tril=root))
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    precision = torch.cholesky_inverse(root)
    left = torch.einsum("nk,nij->kij", w, precision)
    right = torch.einsum("nk,nij,nj->ki", w, precision, x)
    same(new["loc"], torch.linalg.solve(left, right))


def test_known_locations_of_a_covariance() -> None:
    """The covariance around known locations."""
    x, m = real(N, D) * 2, real(N, D, seed=3)
    value = start("none", matrix("covariance_matrix"))
    model = mixture(
        lambda z: dist.MultivariateNormal(m, pyro.param("cov", value, constraint=constraints.positive_definite)[z])
    )
    w = responsibilities(model, x)
    pyro.clear_param_store()
    new = check_closed(model, x).params
    want = torch.einsum("nk,ni,nj->kij", w, x - m, x - m) / w.sum(0)[:, None, None]
    same(new["cov"], want)


def test_weights_of_rows_are_counts() -> None:
    """A weight of 2 is the row twice, a weight of 0 the row absent: also in the closed forms."""
    x, counts = real(N), torch.arange(N) % 3

    def weighted(x: Tensor, counts: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
        loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
        scale = pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)), poutine.scale(scale=counts):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    once = check_closed(weighted, x, counts.double()).params
    repeated = x.repeat_interleave(counts)
    again = step(weighted, repeated, torch.ones(len(repeated))).params
    for name, value in once.items():
        same(value, again[name])


# ---- the check is seen to fail ---------------------------------------------------------------------------------------


def planted(x: Tensor) -> None:
    """Mix three normals with a rate beside them: every kind of closed form with one argument."""
    weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
    scale = pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
    rates = pyro.param("rate", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)
        pyro.sample("wait", dist.Exponential(rates[z]), obs=x.exp())


@pytest.mark.parametrize(
    ("solver", "name"), [("Counts", "weights"), ("NormalBlock", "loc"), ("NormalBlock", "scale"), ("Rates", "rate")]
)
def test_a_wrong_m_step_is_noticed(solver: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed form that is 0.1 % off fails the check that all of the above stands on."""
    kind = getattr(solvers, solver)
    right = kind.solve

    def wrong(self: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {key: 1.001 * value if key == name else value for key, value in right(self, *args, **kwargs).items()}

    check_closed(planted, real(N))
    monkeypatch.setattr(kind, "solve", wrong)
    with pytest.raises(AssertionError):
        check_closed(planted, real(N))
