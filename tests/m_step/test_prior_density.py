"""Priors by the density of unconstrained coordinates: the same closed forms with other counts, and always a mode."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.evidence import log_evidence
from oracles.m_steps import same
from oracles.tolerances import IDENTITY, SOLVERS
from programs.probed import N, real
from pyro import poutine
from pyro.optim import Adam
from torch import Tensor, tensor
from torch.distributions import biject_to, constraints

from em_pyro import EM, ParameterError
from em_pyro.compare import compare, em, svi_map


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.2).double()


def counts() -> Tensor:
    """Small counts."""
    return (real(N).abs() * 3).floor()


def kinds() -> Tensor:
    """Two of three categories."""
    return (real(N).abs() * 2).long() % 2


def mixture(prior: Callable[[], Any], law: Callable[[Tensor], Any]) -> Callable[[Tensor], None]:
    """Two components; the argument of component k is row k of a site with a prior."""

    def model(x: Tensor) -> None:
        with pyro.plate("components", 2):
            argument = pyro.sample("argument", prior())
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", law(argument[z]), obs=x)

    return model


# ---- closed forms ----------------------------------------------------------------------------------------------------

Pair = tuple[Callable[[], Any], Callable[[Tensor], Any], Callable[[], Tensor]]

CONJUGATE: dict[str, Pair] = {
    "Dirichlet": (lambda: dist.Dirichlet(torch.full((3,), 0.1)), dist.Categorical, kinds),
    "Beta": (lambda: dist.Beta(0.1, 0.9), dist.Bernoulli, lambda: torch.ones(N)),
    "Uniform": (lambda: dist.Uniform(0.0, 1.0), dist.Bernoulli, lambda: torch.zeros(N)),
    "Gamma": (lambda: dist.Gamma(0.5, 1.0), dist.Poisson, lambda: torch.zeros(N)),
    "Exponential": (lambda: dist.Exponential(0.3), dist.Poisson, counts),
    "Normal": (lambda: dist.Normal(0.0, 2.0), lambda a: dist.Normal(a, 1.0), lambda: 2 * real(N)),
}

OTHERS: dict[str, Pair] = {
    "LogNormal, rate": (lambda: dist.LogNormal(0.0, 1.0), dist.Poisson, counts),
    "InverseGamma, scale": (lambda: dist.InverseGamma(0.5, 0.5), lambda a: dist.Normal(0.0, a), lambda: 2 * real(N)),
    "HalfNormal, scale": (lambda: dist.HalfNormal(1.0), lambda a: dist.Normal(0.0, a), lambda: 2 * real(N)),
    "HalfCauchy, scale": (lambda: dist.HalfCauchy(1.0), lambda a: dist.Normal(0.0, a), lambda: 2 * real(N)),
    "Uniform, part": (lambda: dist.Uniform(0.2, 0.9), dist.Bernoulli, bits),
    "Beta, logits": (lambda: dist.Beta(0.1, 0.9), lambda a: dist.Bernoulli(a**2), lambda: torch.zeros(N)),
}


def coordinates(model: Callable[..., None], x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Return log evidence, log prior and log volume at `values`, by Pyro and torch alone."""
    found = tensor(log_evidence(model, x, params=values))  # sites that are conditioned on are counted in
    for name, site in poutine.trace(model).get_trace(x).nodes.items():
        if name in values:
            transform = biject_to(site["fn"].support)
            found += transform.log_abs_det_jacobian(transform.inv(values[name]), values[name]).sum()
    return found


def check_mode(model: Callable[..., None], x: Tensor) -> Any:
    """Fit, compare the objective with Pyro's, and find no higher value beside it in unconstrained coordinates."""
    fit = EM(model, prior_density="unconstrained").fit(x)
    assert fit.converged, str(fit)
    assert fit.prior_density == "unconstrained"
    assert "unconstrained coordinates" in str(fit)
    at = coordinates(model, x, fit.params)
    same(tensor(fit.objective), at)
    transform = biject_to(poutine.trace(model).get_trace(x).nodes["argument"]["fn"].support)
    point = transform.inv(fit.params["argument"])
    for k in range(point.numel()):
        for step in (1e-2, -1e-2):
            moved = point.flatten().clone()
            moved[k] += step
            assert coordinates(model, x, {"argument": transform(moved.reshape(point.shape))}) < at
    return fit


@pytest.mark.laws
@pytest.mark.parametrize("name", CONJUGATE)
def test_conjugate_priors_keep_their_closed_form(name: str) -> None:
    """The shape itself is added to the counts, so the mode is inside, and torch finds it too."""
    prior, law, data = CONJUGATE[name]
    model, x = mixture(prior, law), data()
    line = EM(model, prior_density="unconstrained").plan(x)["argument"]
    assert line.how == "closed form"
    assert "prior in unconstrained coordinates" in line.why
    fit = check_mode(model, x)
    options: dict[str, Any] = {"starts": {"argument": fit.params["argument"].flip(0)}, "max_steps": 1, "tol": 0}
    closed, solved = (
        EM(model, prior_density="unconstrained", m_step=choice, **options).fit(x).params["argument"]
        for choice in (None, {"argument": "torch"})
    )
    same(closed, solved, SOLVERS)


@pytest.mark.laws
@pytest.mark.parametrize("name", OTHERS)
def test_other_priors_have_their_mode_there(name: str) -> None:
    """Torch finds it, and the plan says of which density."""
    prior, law, data = OTHERS[name]
    line = EM(mixture(prior, law), prior_density="unconstrained").plan(data())["argument"]
    assert "its " in line.why
    assert "in unconstrained coordinates" in line.why
    check_mode(mixture(prior, law), data())


def test_a_step_adds_the_shape_itself() -> None:
    """`alpha` where the density of the value has `alpha - 1`: MacKay 1998."""

    def model(x: Tensor) -> None:
        p = pyro.sample("p", dist.Dirichlet(tensor([0.5, 1.0, 2.5])))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Categorical(p), obs=x)

    x = tensor([0, 0, 1, 1, 1, 2])
    counted = tensor([2.0, 3.0, 1.0]) + tensor([0.5, 1.0, 2.5])
    same(EM(model, prior_density="unconstrained").fit(x).params["p"], counted / counted.sum())


def test_a_hierarchy_in_coordinates() -> None:
    """A prior whose arguments are fitted as well has the volume of its own value alone."""

    def model(x: Tensor) -> None:
        shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
        with pyro.plate("components", 2):
            argument = pyro.sample("argument", dist.Gamma(shape, 1.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Poisson(argument[z]), obs=x)

    x = counts()
    fit = EM(model, prior_density="unconstrained", starts={"shape": tensor(1.3), "argument": tensor([0.7, 4.0])}).fit(x)
    assert fit.converged, str(fit)
    same(tensor(fit.objective), coordinates(model, x, fit.params))


def test_params_are_not_concerned() -> None:
    """A `pyro.param` has no prior, whatever the density of those that have one."""

    def model(x: Tensor) -> None:
        w = pyro.param("w", tensor([0.3, 0.7]), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(tensor([-1.0, 1.0])[z], 1.0), obs=x)

    fits = []
    for density in ("constrained", "unconstrained"):
        pyro.clear_param_store()
        fits.append(EM(model, prior_density=density).fit(real(N)))
    assert fits[0].path == fits[1].path
    assert torch.equal(fits[0].params["w"], fits[1].params["w"])


# ---- masks and exponents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [False, True], ids=["handler", "distribution"])
@pytest.mark.parametrize("by_entry", [False, True], ids=["all", "entries"])
def test_a_mask_leaves_the_volume_out_too(by_entry: bool, inner: bool) -> None:  # noqa: FBT001
    """What has no prior is fitted by maximum likelihood."""
    mask = tensor([True, False]) if by_entry else torch.zeros(2, dtype=torch.bool)

    def model(x: Tensor) -> None:
        fn = dist.Beta(0.5, 2.0).expand([2])
        with poutine.mask(mask=True if inner else mask), pyro.plate("components", 2):
            p = pyro.sample("p", fn.mask(mask) if inner else fn)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(p[torch.arange(len(x)) % 2]), obs=x)

    x = bits()
    parts = [x[::2], x[1::2]]
    plain = torch.stack([part.mean() for part in parts])
    held = torch.stack([(part.sum() + 0.5) / (len(part) + 2.5) for part in parts])
    fit = EM(model, prior_density="unconstrained").fit(x)
    same(fit.params["p"], torch.where(mask, held, plain))
    p = fit.params["p"]
    density = dist.Beta(0.5, 2.0).log_prob(p) + p.log() + (1 - p).log()
    same(tensor(fit.objective - fit.log_likelihood), torch.where(mask, density, 0.0).sum())


@pytest.mark.parametrize("by_row", [False, True], ids=["one", "each"])
def test_an_exponent_is_of_the_whole_density(by_row: bool) -> None:  # noqa: FBT001
    """`poutine.scale` multiplies the logarithm of the density of the coordinates: shapes as a whole."""
    scale = tensor([0.5, 3.0]) if by_row else tensor(2.0)

    def model(x: Tensor) -> None:
        with pyro.plate("components", 2), poutine.scale(scale=scale if by_row else float(scale)):
            rate = pyro.sample("rate", dist.Gamma(0.4, 1.5))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate[torch.arange(len(x)) % 2]), obs=x)

    x = counts()
    sums, rows = torch.stack([x[::2].sum(), x[1::2].sum()]), tensor([15.0, 15.0])
    assert EM(model, prior_density="unconstrained").plan(x)["rate"].how == "closed form"
    fit = EM(model, prior_density="unconstrained").fit(x)
    same(fit.params["rate"], (sums + scale * 0.4) / (rows + scale * 1.5))
    rate = fit.params["rate"]
    prior = (scale * (dist.Gamma(0.4, 1.5).log_prob(rate) + rate.log())).sum()
    same(tensor(fit.objective - fit.log_likelihood), prior)


# ---- the option, and those who use it --------------------------------------------------------------------------------


def test_the_remedy_is_named_and_helps() -> None:
    """The ending names the site, its entry and the option."""
    prior, law, data = CONJUGATE["Dirichlet"]
    fit = EM(mixture(prior, law)).fit(data())
    assert fit.outcome == "prior unbounded"
    (note,) = [note for note in fit.notes if "unbounded" in note]
    assert 'site "argument", entry (0, 2)' in note
    assert 'EM(prior_density="unconstrained")' in note
    assert EM(mixture(prior, law), prior_density="unconstrained").fit(data()).converged


@pytest.mark.parametrize("law", ["sticks", "rate"])
def test_a_prior_is_not_followed_by_torch_either(law: str) -> None:
    """Breaks of a stick, or a rate behind a function: where only the prior pulls on at its boundary, a fit says so."""

    def sticks(x: Tensor) -> None:
        with pyro.plate("breaks", 3):
            part = pyro.sample("part", dist.Beta(1.0, 0.2))
        left = torch.cumprod(1 - part, -1)
        weights = torch.cat([part[:1], part[1:] * left[:-1], left[-1:]])
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(tensor([0.0, 4.0, 8.0, 12.0])[z], 1.0), obs=x)

    def rate(x: Tensor) -> None:
        part = pyro.sample("part", dist.Gamma(0.3, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(torch.tanh(part) * part, 1.0), obs=x)

    model, x = (sticks, 0.3 * real(30)) if law == "sticks" else (rate, 0.1 * real(30))
    assert EM(model).plan(x)["part"].how == "torch"
    fit = EM(model).fit(x)
    assert fit.outcome == "prior unbounded"
    assert 'site "part", entry' in fit.notes[-1]
    pyro.clear_param_store()
    other = EM(model, prior_density="unconstrained").fit(x)
    assert other.converged, str(other)


def test_an_unknown_density_is_refused() -> None:
    """By the names of the two that there are."""
    with pytest.raises(ParameterError, match='"constrained" or "unconstrained", got \'uniform\''):
        EM(mixture(*CONJUGATE["Beta"][:2]), prior_density="uniform")


def test_a_race_is_on_one_density() -> None:
    """SVI ascends it too, or it would not be admitted; a contender has no density of its own."""
    prior, law, data = CONJUGATE["Beta"]
    contenders = {"em": em(), "svi": svi_map(Adam({"lr": 0.05}))}
    options: dict[str, Any] = {"args": (data(),), "budget_seconds": 0.3, "max_steps": 20, "echo": lambda line: None}
    race = compare(mixture(prior, law), contenders=contenders, prior_density="unconstrained", **options)
    assert race.prior_density == "unconstrained"
    assert "Priors are densities of unconstrained coordinates" in str(race)
    ours, theirs = race.lanes
    assert theirs.ending != "not able", theirs.message
    assert abs(ours.points[0].objective - theirs.points[0].objective) < IDENTITY * 1e2
    with pytest.raises(ParameterError, match="prior_density"):
        em(prior_density="unconstrained")
