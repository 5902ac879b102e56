"""Logarithms of zero and exponentials that are infinite, where they count for nothing: their slopes do not either."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.errors import ObjectiveError
from em_pyro.recording import graph
from em_pyro.recording.defined import DEFINED, Defined, _exp, _log, _log1p, _pow, _xlogy

K = torch.arange(60, dtype=torch.float64)
NEAR = torch.round(9 * (0.7 * K).sin())
ROUNDED = torch.cat([NEAR, tensor([75.0, 90.0, 180.0], dtype=torch.float64)])
"""Values in whole numbers: to the last digit the last ones have no probability in a narrow state."""

Law = Callable[[Tensor, Tensor], Tensor]


def between(low: Tensor, high: Tensor) -> Tensor:
    """The log-probability of an interval, as it is written first."""
    return (high - low).log()


def below(low: Tensor, high: Tensor) -> Tensor:
    """Another way to write it."""
    return (high - low - 1).log1p()


def bounded(low: Tensor, high: Tensor) -> Tensor:
    """What has a slope everywhere, by a bound."""
    return (high - low).clamp(min=1e-300).log()


def mixture(y: Tensor, law: Law) -> None:
    """Two normals of other widths, seen in intervals."""
    share = pyro.param("share", tensor([0.9, 0.1], dtype=torch.float64), constraint=constraints.simplex)
    scale = pyro.param("scale", tensor([3.0, 60.0], dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        one = dist.Normal(0.0, scale[z])
        pyro.factor("y", law(one.cdf(y - 0.5), one.cdf(y + 0.5)))


def fitted(law: Law) -> Fit:
    """Fit rounded values."""
    pyro.clear_param_store()
    return EM(mixture).fit(ROUNDED, law)


@pytest.mark.parametrize("law", [between, below])
def test_intervals_in_a_mixture(law: Law) -> None:
    """The maximum is that of the density with a bound, which no row reaches."""
    fit, usual = fitted(law), fitted(bounded)
    assert fit.converged
    assert usual.converged
    assert fit.objective == pytest.approx(usual.objective, rel=SOLVERS)
    for name, value in usual.params.items():
        assert torch.allclose(fit.params[name], value, rtol=1e-3)


def test_without_it_no_step_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero times infinity is no slope."""
    monkeypatch.setattr(graph, "DEFINED", ())
    with pytest.raises(ObjectiveError, match="finite gradient"):
        fitted(between)


@pytest.mark.parametrize(("op", "run"), DEFINED[:3])
def test_values_and_slopes_are_those_of_torch(op: Callable[[Tensor], Tensor], run: Callable[[Tensor], Tensor]) -> None:
    """Twice differentiated."""
    x = tensor([0.3, 1.0, 7.0], dtype=torch.float64, requires_grad=True)
    mine, theirs = run(x), op(x)
    assert torch.equal(mine, theirs)
    for _ in range(2):
        mine, theirs = (torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in (mine, theirs))
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("run", "end", "want"), [(_log, 0.0, -torch.inf), (_log1p, -1.0, -torch.inf), (_exp, 710.0, torch.inf)]
)
def test_at_its_end_a_function_has_its_value_and_no_slope(
    run: Callable[[Tensor], Tensor], end: float, want: float
) -> None:
    """In double precision; beyond, as torch has it."""
    at = torch.full((1,), end, dtype=torch.float64, requires_grad=True)
    value = run(at)
    assert value.item() == want
    assert torch.autograd.grad(value.sum(), at)[0].item() == 0.0
    assert run(tensor([torch.nan if run is _exp else -2.0])).isnan().all()
    assert torch.equal(_exp(tensor([2])), tensor([2]).exp())
    assert _exp(tensor([89.0], dtype=torch.float32)).item() == torch.inf


def test_products_with_a_logarithm_at_zeros_of_both() -> None:
    """A product with zero has no slope there; elsewhere, twice differentiated, all is as torch has it."""
    x = tensor([0.0, 0.0, 1.5, 2.0], dtype=torch.float64)
    y = tensor([0.0, 0.3, 0.2, 7.0], dtype=torch.float64, requires_grad=True)
    mine, theirs = _xlogy(x, y), torch.xlogy(x, y)
    assert torch.equal(mine, theirs)
    for _ in range(2):
        mine, theirs = (torch.autograd.grad(out.sum(), y, create_graph=True)[0] for out in (mine, theirs))
        assert mine[0] == 0
        assert torch.equal(mine[1:], theirs[1:])
    for some in (tensor(1.0), 1.0):
        zero = tensor(0.0, requires_grad=True)
        value = _xlogy(some, zero)
        assert value == -torch.inf
        assert torch.autograd.grad(value, zero)[0] == 0
    assert torch.equal(_xlogy(2.0, y), torch.xlogy(2.0, y))


def test_counts_of_raters_as_a_factor() -> None:
    """Confusions that never occur: a state that they rule out has weight zero, and its slope is none.

    References: Dawid and Skene (1979).
    """
    items, raters, many = 20, 4, 90
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randint(0, k, (n,), generator=generator) for k, n in ((3, items), (items, many), (raters, many))]
    (kind, item, rater), right = draw, torch.rand(many, generator=generator) < 0.75
    said = torch.where(right, kind[item], torch.randint(0, 3, (many,), generator=generator))
    counts = torch.zeros(items, raters, 3).double()
    counts.index_put_((item, rater, said), torch.ones(many).double(), accumulate=True)

    def model(counts: Tensor) -> None:
        share = pyro.param("share", torch.full((3,), 1 / 3).double(), constraint=constraints.simplex)
        start = (torch.eye(3) / 2 + 1 / 6).double().expand(raters, 3, 3)
        says = pyro.param("says", start.contiguous(), constraint=constraints.simplex)
        with pyro.plate("items", items, dim=-2):
            z = pyro.sample("z", dist.Categorical(share))
            with pyro.plate("raters", raters, dim=-1):
                pyro.factor("said", torch.xlogy(counts, says[torch.arange(raters), z]).sum(-1))

    fit = EM(model).fit(counts)
    assert fit.converged
    assert not any("slope" in note for note in fit.notes)
    assert "on the boundary: no standard error" in str(fit.information())


def test_powers_of_zero() -> None:
    """Slopes that are infinite, or have none themselves, lead nowhere; all others, and values, are those of torch."""
    x, y = (
        tensor(some, dtype=torch.float64, requires_grad=True)
        for some in ([0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 2.0, 1.5], [0.0, 0.7, 1.0, 1.5, 2.0, 0.7, -1.0, 3.0])
    )
    mine, theirs = _pow(x, y), x**y
    assert torch.equal(mine, theirs)
    slopes = [torch.autograd.grad(out.sum(), (x, y), create_graph=True) for out in (mine, theirs)]
    usual = tensor([True, False, *[True] * 6])
    for one, other in zip(*slopes, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one[usual], other[usual])
    second = [torch.autograd.grad(of[0].sum() + 0 * of[1].sum(), x)[0] for of in slopes]
    assert second[0].tolist()[1:5] == [0.0, 0.0, 0.0, 2.0]
    assert torch.equal(second[0][5:], second[1][5:])
    whole = tensor([0, 2])
    assert torch.equal(_pow(whole, 3), whole**3)
    assert torch.equal(_pow(whole, tensor([0.5, 0.5])), whole ** tensor([0.5, 0.5]))
    assert torch.equal(_pow(x, 2), x**2)
    assert torch.equal(_pow(x[:2], 0.5), x[:2] ** 0.5)
    assert _pow(tensor([0.0], dtype=torch.float32), 0.5).dtype == torch.float32


DIED_AT = tensor([0.3, 0.9, 1.6, 2.1, 0.2, 4.8, 1.2, 0.6, 3.3, 7.5], dtype=torch.float64)
LEFT_AT = tensor([0.0, 1.1, 0.0, 2.6, 3.1], dtype=torch.float64)


def survival(left: Tensor, *, shape: float, term: bool) -> None:
    """Times of death, and times after which nobody knows; some left when the study began."""
    scale = pyro.param("scale", tensor(2.0, dtype=torch.float64), constraint=constraints.positive)
    k = pyro.param("shape", tensor(shape, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("dead", len(DIED_AT)):
        pyro.sample("died", dist.Weibull(scale, k), obs=DIED_AT)
    with pyro.plate("others", len(left)):
        alive = -((left / scale) ** k)
        if term:
            pyro.factor("left", alive)
        else:
            pyro.sample("left", dist.Bernoulli(alive.exp()), obs=torch.ones_like(left))


@pytest.mark.parametrize("shape", [0.7, 1.5])
@pytest.mark.parametrize("term", [False, True])
def test_who_left_at_once_tells_nothing(shape: float, *, term: bool) -> None:
    """The fit and its standard errors are those without these rows."""
    found = []
    for left in (LEFT_AT, LEFT_AT[LEFT_AT > 0]):
        pyro.clear_param_store()
        found.append(EM(survival).fit(left, shape=shape, term=term))
        assert found[-1].outcome == "converged"
        assert not found[-1].notes
    assert found[0].log_likelihood == pytest.approx(found[1].log_likelihood, rel=SOLVERS)
    one, other = (fit.information().se for fit in found)
    assert one["shape"].item() == pytest.approx(other["shape"].item(), rel=1e-4)


ONE, TWO, FOUR = (tensor(x, dtype=torch.float64) for x in (1.0, 2.0, 4.0))


@pytest.mark.parametrize(
    ("law", "value"),
    [
        (dist.Dirichlet(torch.stack([ONE, FOUR, ONE])), [0.0, 0.4, 0.6]),
        (dist.Beta(ONE, TWO), 0.0),
        (dist.Gamma(ONE, TWO), 0.0),
    ],
)
def test_densities_at_a_boundary(law: dist.TorchDistribution, value: float | list[float]) -> None:
    """What has a value there has a slope, and a second one."""
    at = tensor(value, dtype=torch.float64, requires_grad=True)
    with Defined():
        density = law.log_prob(at)
    assert density == law.log_prob(at)
    (slope,) = torch.autograd.grad(density, at, create_graph=True)
    assert slope.isfinite().all()
    assert torch.autograd.grad(slope.sum(), at, allow_unused=True)[0].isfinite().all()
    (theirs,) = torch.autograd.grad(law.log_prob(at), at)
    assert not theirs.isfinite().all()


DOSE = tensor([-2.0, -1.5, -1.0, -0.2, 0.1, 0.4, 1.0, 1.6, 2.2, 3.0], dtype=torch.float64)
DIED = (DOSE > 0).double()


def log_log(dose: Tensor, died: Tensor) -> None:
    """A complementary log-log regression, on data that a dose separates."""
    coef = pyro.param("coef", torch.zeros(2, dtype=torch.float64))
    with pyro.plate("rows", len(dose)):
        eta = coef[0] + coef[1] * dose
        pyro.sample("died", dist.Bernoulli(1 - torch.exp(-torch.exp(eta))), obs=died)


def nearly(dose: Tensor, died: Tensor) -> None:
    """The same, with a row so near that the others are long saturated where it is fitted."""
    log_log(torch.cat([dose, tensor([0.002, 0.004])]), torch.cat([died, tensor([0.0, 1.0])]))


@pytest.mark.parametrize("model", [log_log, nearly])
def test_saturated_rows_do_not_stop_the_others(model: Callable[..., None]) -> None:
    """The likelihood goes to one, however far the coefficients have to go, and the notes say that they do."""
    pyro.clear_param_store()
    fit = EM(model).fit(DOSE, DIED)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(0.0, abs=1e-6)
    assert any("runs to infinity" in note for note in fit.notes)


def test_without_it_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero times infinity is no slope of an exponential, either."""
    monkeypatch.setattr(graph, "DEFINED", DEFINED[1:])
    pyro.clear_param_store()
    assert EM(nearly).fit(DOSE, DIED).log_likelihood < -1e-5
