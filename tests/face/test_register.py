"""`register`, as a stranger uses it: two families that the package lacks, from the formula to a fitted mixture.

A family is one class and one decorator. What follows first is the complete worked example: the inverse Gamma
distribution with a known shape, whose log-density is linear in its scale `b`,

    log p(x | a, b) = a log b - b / x  +  (-(a + 1) log x - log Gamma(a)),

so that the statistics are (1, 1 / x), `Q = a n log b - b sum(1 / x)`, and its maximum `b = a n / sum(1 / x)`.
"""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.evidence import log_evidence
from oracles.m_steps import check_closed, how, same
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro
from em_pyro import EM, Family, PlanError, Role
from em_pyro.families import base

Args = Mapping[str, Tensor]


class Claims(dist.InverseGamma):
    """The inverse Gamma distribution by another name, so that nothing else is registered for it."""


class Waves(dist.TorchDistribution):
    """Rayleigh: heights of waves, `x / s^2 exp(-x^2 / (2 s^2))`, with a scale of its own for each batch entry."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.positive

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:  # noqa: FBT001
        """Take the scale of each batch entry."""
        self.scale = torch.as_tensor(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Waves":
        """Expand the scale."""
        new = self._get_checked_instance(Waves, _instance)
        new.scale = self.scale.expand(batch_shape)
        super(Waves, new).__init__(torch.Size(batch_shape), validate_args=False)
        return new

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw by inversion."""
        uniform = torch.rand(torch.Size(sample_shape) + self.batch_shape)
        return self.scale * (-2 * uniform.log()).sqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density."""
        return value.log() - 2 * self.scale.log() - 0.5 * (value / self.scale) ** 2


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register for one test only."""
    monkeypatch.setattr(base, "_TABLE", dict(base._TABLE))


def claims_family() -> type[Family]:
    """Write and register the family: the whole of what a stranger writes."""

    @em_pyro.register(Claims)
    class KnownShape(Family):
        """`a log b - b / x`, the shape `a` known and possibly different in each row."""

        roles = {"rate": Role("positive")}

        def read(self, distribution: Any) -> dict[str, Tensor]:
            gamma = distribution.base_dist  # an inverse Gamma is the reciprocal of a Gamma
            return {"rate": base.unexpand(gamma.rate), "concentration": base.unexpand(gamma.concentration)}

        def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
            return known["concentration"].expand_as(value), 1 / value

        def natural(self, args: Args) -> tuple[Tensor, ...]:
            return args["rate"].log(), -args["rate"]

        def base(self, value: Tensor, known: Args) -> Tensor | None:
            a = known["concentration"]
            return -(a + 1) * value.log() - torch.lgamma(a)

        def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
            shapes, inverses = statistics
            return {"rate": torch.where(inverses > 0, shapes / inverses, args["rate"])}

    return KnownShape


def claims(x: Tensor, shape: Tensor) -> None:
    """Mix three kinds of claims; the first two share a rate, as the program says and nobody else."""
    weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
    rate = pyro.param("rate", tensor([0.7, 3.0]), constraint=constraints.positive)
    with pyro.plate("claim", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", Claims(shape, rate[(z > 0).long()]), obs=x)


def claims_data(n: int = 60) -> tuple[Tensor, Tensor]:
    """Draw claims with a known shape for each row."""
    shape, generator = 1.0 + torch.arange(n) % 3, torch.Generator().manual_seed(0)
    gamma = -torch.rand((n,), generator=generator).log()
    return (1 + 4 * (torch.arange(n) % 2)) / gamma, shape


def test_before_registration_it_is_torch() -> None:
    """What is not in the table is replayed, and the plan says so."""
    args = claims_data()
    assert how(claims, *args) == {"weights": "closed form", "rate": "torch"}
    with pytest.raises(PlanError, match="Claims has no registered family"):
        EM(claims, m_step={"rate": "closed"}).plan(*args)


def one_rate(x: Tensor, shape: Tensor) -> None:
    """Mix two kinds of claims, each with a rate of its own."""
    weights = pyro.param("weights", tensor([0.6, 0.4]), constraint=constraints.simplex)
    rate = pyro.param("rate", tensor([0.7, 3.0]), constraint=constraints.positive)
    with pyro.plate("claim", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", Claims(shape, rate[z]), obs=x)


@pytest.mark.parametrize("model", [one_rate, claims], ids=["a rate each", "tied"])
def test_a_registered_family_is_closed_form(model: Any) -> None:
    """The engine pools its statistics over whatever the program ties, and solves."""
    claims_family()
    args = claims_data()
    check_closed(model, *args)
    plan = EM(model).plan(*args)
    assert plan["rate"].role == "KnownShape.rate"


@pytest.mark.parametrize("model", [one_rate, claims], ids=["a rate each", "tied"])
def test_a_registered_family_fits_as_the_model_itself(model: Any) -> None:
    """With and without it: the same path; and the log-likelihood is Pyro's."""
    args = claims_data()
    before = EM(model, tol=1e-10).fit(*args)
    pyro.clear_param_store()
    claims_family()
    after = EM(model, tol=1e-10).fit(*args)
    assert after.converged
    same(tensor(after.log_likelihood), tensor(log_evidence(model, *args, params=after.params)))
    for name, value in before.params.items():
        same(after.params[name], value, 1e-3)  # where the objective is flat to 1e-10


def test_several_roles_and_a_fixed_one() -> None:
    """A family may solve several arguments together; for a set that it cannot solve, torch takes over."""

    @em_pyro.register(Claims)
    class Both(Family):
        """Both arguments free have no closed form; the rate alone has."""

        roles = {"concentration": Role("positive"), "rate": Role("positive")}

        def read(self, distribution: Any) -> dict[str, Tensor]:
            gamma = distribution.base_dist
            return {"concentration": base.unexpand(gamma.concentration), "rate": base.unexpand(gamma.rate)}

        def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
            return torch.ones_like(value), value.log(), 1 / value

        def natural(self, args: Args) -> tuple[Tensor, ...]:
            a, b = args["concentration"], args["rate"]
            return a * b.log() - torch.lgamma(a), -(a + 1), -b

        def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
            if free != {"rate"}:
                raise NotImplementedError("with a free concentration")
            return {"rate": args["concentration"] * statistics[0] / statistics[2]}

    x, _ = claims_data()

    def model(x: Tensor, shape: Tensor | None) -> None:
        rate = pyro.param("rate", tensor([0.7, 3.0]), constraint=constraints.positive)
        a = pyro.param("a", tensor([1.5, 2.5]), constraint=constraints.positive) if shape is None else shape
        with pyro.plate("claim", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", Claims(a[z], rate[z]), obs=x)

    assert how(model, x, tensor([1.0, 2.0])) == {"rate": "closed form"}
    check_closed(model, x, tensor([1.0, 2.0]))
    assert how(model, x, None) == {"rate": "torch", "a": "torch"}
    with pytest.raises(PlanError, match="with a free concentration"):
        EM(model, m_step={"a": "closed"}).plan(x, None)


def test_a_distribution_of_one_s_own() -> None:
    """A new distribution and its family: Rayleigh, whose squared scale is half the mean square."""

    @em_pyro.register(Waves)
    class Rayleigh(Family):
        """`-2 log s - x^2 / (2 s^2)`."""

        roles = {"scale": Role("positive")}

        def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
            return torch.ones_like(value), value**2

        def natural(self, args: Args) -> tuple[Tensor, ...]:
            return -2 * args["scale"].log(), -0.5 * args["scale"] ** -2

        def base(self, value: Tensor, known: Args) -> Tensor | None:
            return value.log()

        def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
            n, squares = statistics
            return {"scale": torch.where(n > 0, (squares / (2 * n.clamp(min=1e-300))).sqrt(), args["scale"])}

    generator = torch.Generator().manual_seed(0)
    x = (1 + 3 * (torch.arange(200) % 2)) * (-2 * torch.rand((200,), generator=generator).log()).sqrt()

    def sea(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.6, 0.4]), constraint=constraints.simplex)
        scale = pyro.param("scale", tensor([0.5, 2.0]), constraint=constraints.positive)
        with pyro.plate("wave", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", Waves(scale[z]), obs=x)

    check_closed(sea, x)
    fit = EM(sea).fit(x)
    assert fit.converged
    same(tensor(fit.log_likelihood), tensor(log_evidence(sea, x, params=fit.params)))
    w = fit.posterior.marginal("z")
    same(fit.params["scale"], ((w * x[:, None] ** 2).sum(0) / (2 * w.sum(0))).sqrt(), 1e-4)


def test_a_wrong_solution_is_withdrawn() -> None:
    """A family whose `solve` is 0.1 % off is found out before the first step, and the fit is right all the same."""
    Right = claims_family()

    @em_pyro.register(Claims)
    class Wrong(Right):  # type: ignore[misc, valid-type]
        """A planted fault."""

        def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
            return {role: 1.001 * value for role, value in super().solve(statistics, args, free).items()}

    args = claims_data()
    fit = EM(one_rate, tol=1e-12).fit(*args)
    assert any("rate" in note and "withdrawn" in note for note in fit.notes)
    pyro.clear_param_store()
    em_pyro.register(Claims)(Right)
    want = EM(one_rate, tol=1e-12).fit(*args)
    assert not want.notes
    same(fit.params["rate"], want.params["rate"], 1e-6)


def test_a_wrong_density_is_withdrawn() -> None:
    """A family that computes another density than the model is not believed."""

    @em_pyro.register(Claims)
    class Wrong(claims_family()):  # type: ignore[misc]
        """A planted fault in the natural parameters."""

        def natural(self, args: Args) -> tuple[Tensor, ...]:
            return 1.001 * args["rate"].log(), -args["rate"]

    args = claims_data()
    fit = EM(one_rate, tol=1e-12).fit(*args)
    same(tensor(fit.log_likelihood), tensor(log_evidence(one_rate, *args, params=fit.params)))


def test_a_subclass_is_not_taken_for_its_parent() -> None:
    """A subclass may change the density, so that the table is read by the exact class."""

    class Shifted(dist.Poisson):
        """Another density under the parent's arguments."""

        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value - 1)

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", tensor([0.7, 3.0]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", Shifted(rate[z]), obs=x)

    assert how(model, tensor([1.0, 2.0, 5.0])) == {"rate": "torch"}


DISCRETE = ("Categorical", "OneHotCategorical", "Bernoulli", "Binomial", "Multinomial", "Geometric", "Poisson")


@pytest.mark.parametrize("name", [*DISCRETE, "Exponential", "Normal", "LogNormal", "MultivariateNormal"])
def test_what_is_registered_from_the_start(name: str) -> None:
    """Each has its roles, of domains that are known."""
    family = base.family_for(getattr(dist, name))
    assert family.roles
    assert all(role.domain in ("unit", "simplex", "positive", "real", "scale_tril") for role in family.roles.values())
