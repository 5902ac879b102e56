"""A location affine in parameters: covariates by row and coefficients by cell say what all cells by row said."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import regressions
from oracles.engines import Built, distance, farthest, lay_out
from oracles.sizes import Largest
from oracles.steps import em_step, expect, maximise, q
from oracles.tolerances import IDENTITY, SOLVERS
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step import chunks
from em_pyro.e_step.sites import layout, linear
from em_pyro.e_step.sites.linear import Linear
from em_pyro.m_step.maximise import maximise as maximise_batch

ROWS, TIMES = 60, 5


def states(rows: int) -> Tensor:
    """The component of every row, with a prior of its own."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    assert rows
    return pyro.sample("z", dist.Categorical(weights))


def scales() -> Tensor:
    """A positive parameter with an entry a component."""
    return pyro.param("scale", tensor([0.7, 1.3]), constraint=constraints.positive)


def summed(x: Tensor, y: Tensor) -> None:
    """`(coef[z] * x).sum(-1)`, an intercept among the columns, the scale in common."""
    coef = pyro.param("coef", tensor([[0.2, 1.0, 0.1], [1.0, -1.0, 0.3]]))
    scale = pyro.param("scale", tensor(0.8), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), scale), obs=y)


def multiplied(x: Tensor, y: Tensor) -> None:
    """`x @ coef.T`, from which the component selects; a known scale."""
    coef = pyro.param("coef", tensor([[0.2, 1.0, 0.1], [1.0, -1.0, 0.3]]))
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        mean = Vindex(x @ coef.T)[torch.arange(len(y)), z]
        pyro.sample("y", dist.Normal(mean, 0.9), obs=y)


def intercepts(x: Tensor, y: Tensor) -> None:
    """Intercepts by component, a slope in common beside one by component, and a known part of every row."""
    a, b = pyro.param("a", tensor([0.0, 2.0])), pyro.param("b", tensor(0.3))
    c, scale = pyro.param("c", tensor([0.1, -0.2])), scales()
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        mean = a[z] + b * x[:, 1] + 2.0 * c[z] * x[:, 2] + x[:, 2].square() + 0.5 * c[z] * x[:, 1]
        pyro.sample("y", dist.Normal(mean, scale[z]), obs=y)


def shrunken(x: Tensor, y: Tensor) -> None:
    """Coefficients with a Normal prior."""
    coef = pyro.sample("coef", dist.Normal(torch.zeros(2, 3), 0.5).to_event(2))
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), 0.8), obs=y)


def scaled(x: Tensor, y: Tensor) -> None:
    """Rows that count more or less, and some that are masked."""
    coef, scale = pyro.param("coef", tensor([[0.2, 1.0, 0.1], [1.0, -1.0, 0.3]])), scales()
    rows = pyro.plate("rows", len(y))
    with rows, pyro.poutine.scale(scale=1 + x[:, 2].abs()):
        z = states(len(y))
        with pyro.poutine.mask(mask=x[:, 1] > -1):
            pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), scale[z]), obs=y)


def logarithms(x: Tensor, y: Tensor) -> None:
    """Logarithms of the responses are Normal."""
    coef, scale = pyro.param("coef", tensor([[0.2, 1.0, 0.1], [1.0, -1.0, 0.3]])), scales()
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        pyro.sample("y", dist.LogNormal((coef[z] * x).sum(-1), scale[z]), obs=y.exp())


def responses(x: Tensor, y: Tensor) -> None:
    """Two responses to the same covariates, some of them missing."""
    coef, scale = pyro.param("coef", torch.linspace(-1, 1, 12).reshape(2, 2, 3)), pyro.param(
        "scale", tensor([[0.7, 1.1], [1.3, 0.9]]), constraint=constraints.positive
    )  # fmt: skip
    both = torch.stack([y, torch.where(x[:, 1] > 1, torch.nan, y * 0.5 + x[:, 2])], -1)
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        law = dist.Normal((coef[z] * x[:, None, :]).sum(-1), scale[z]).mask(~both.isnan())
        pyro.sample("y", law.to_event(1), obs=both)


def growth(x: Tensor, y: Tensor) -> None:
    """Curves of subjects: time lies inside the plate of the latent, and has no latent of its own."""
    a, b, scale = pyro.param("a", tensor([0.0, 1.0])), pyro.param("b", tensor([0.5, -0.5])), scales()
    t = torch.arange(float(TIMES))
    curves = y[: ROWS // TIMES * TIMES].reshape(-1, TIMES).T
    with pyro.plate("subjects", curves.shape[1], dim=-1):
        z = states(len(y))
        with pyro.plate("times", TIMES, dim=-2):
            pyro.sample("y", dist.Normal(a[z] + b[z] * t[:, None], scale[z]), obs=curves)


def chain(x: Tensor, y: Tensor) -> None:
    """A hidden Markov chain whose emissions are regressions, many sequences at once."""
    a, b, scale = pyro.param("a", tensor([0.0, 1.0])), pyro.param("b", tensor([0.5, -0.5])), scales()
    moves = pyro.param("moves", tensor([[0.7, 0.3], [0.2, 0.8]]), constraint=constraints.simplex)
    curves, others = (part[: ROWS // TIMES * TIMES].reshape(TIMES, -1) for part in (y, x[:, 1]))
    z = None
    with pyro.plate("sequences", curves.shape[1], dim=-1):
        for t in pyro.markov(range(TIMES)):
            z = pyro.sample(f"z{t}", dist.Categorical(tensor([0.5, 0.5]) if z is None else moves[z]))
            pyro.sample(f"y{t}", dist.Normal(a[z] + b[z] * others[t], scale[z]), obs=curves[t])


def tied(x: Tensor, y: Tensor) -> None:
    """A coefficient that is the mean of another site as well, and a scale of both."""
    a, b = pyro.param("a", tensor([0.0, 2.0])), pyro.param("b", tensor(0.3))
    scale = pyro.param("scale", tensor(0.8), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = states(len(y))
        pyro.sample("y", dist.Normal(a[z] + b * x[:, 1], scale), obs=y)
        pyro.sample("other", dist.Normal(a[z], 2 * scale), obs=x[:, 2])


MODELS: tuple[Callable[..., None], ...] = (
    summed, multiplied, intercepts, shrunken, scaled, logarithms, responses, growth, chain, tied,
)  # fmt: skip


def data() -> tuple[Tensor, Tensor]:
    """An intercept, two covariates, and a response."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((ROWS, 3), generator=generator)
    x[:, 0] = 1
    return x, x[:, 1] + torch.randn(ROWS, generator=generator)


def both(model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Built, Built]:
    """A program with sites of this form, and the same with a cell for every state and row."""
    lines = lay_out(model, data())
    forms = [factor.form for factor in lines.compiled.sites.values()]
    assert any(isinstance(form, Linear) for form in forms)
    monkeypatch.setattr(layout, "linear_of", lambda factor, form: None)
    rows = lay_out(model, data(), lines.here, lines.there)
    assert not any(isinstance(factor.form, Linear) for factor in rows.compiled.sites.values())
    return lines, rows


@pytest.mark.parametrize("model", MODELS)
def test_lines_are_rows(model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Log evidence, `Q` elsewhere and the step are the same, in chunks too; the plan says the same."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "LEAST", 7)
    lines, rows = both(model, monkeypatch)
    assert str(lines.plan).split("planned")[0] == str(rows.plan).split("planned")[0]
    (new, found), (want, have) = (em_step(b.compiled, b.plan, b.here) for b in (lines, rows))
    assert distance(found.log_evidence, have.log_evidence) < IDENTITY
    change = [q(b.compiled, b.there, f) - q(b.compiled, b.here, f) for b, f in ((lines, found), (rows, have))]
    assert distance(*change) < IDENTITY
    assert farthest(new, want) < IDENTITY
    assert farthest(new, lines.here) > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_around_other_coefficients(model: Callable[..., Any]) -> None:
    """Sums around other coefficients lead to the same step; so do several starts at once."""
    built = lay_out(model, data())
    engine, plan = built.compiled, built.plan
    two = {n: torch.stack([built.here[n], built.there[n]]) for n in built.here}
    about = {n: torch.stack([built.there[n], built.here[n]]) for n in built.here}
    found = [engine.expect(engine.bind(two), None if a is None else engine.bind(a)) for a in (None, about)]
    steps = [] if plan.swept else [maximise_batch(engine, plan, one, two) for one in found]  # swept are one by one
    for k, start in enumerate((built.here, built.there)):
        alone = maximise(engine, plan, expect(engine, start), start)
        for new in steps:
            assert farthest({n: value[k] for n, value in new.items()}, alone) < 1e-9  # a maximum is flat
    for name, sums in found[0].sums.items():
        if sums.around is not None:
            other = found[1].sums[name]
            assert distance(sums.around, other.around if other.around is not None else sums.around) > 1e-3
            for a, b in zip(sums.about(other.around).parts, other.parts, strict=True):  # type: ignore[arg-type]
                assert distance(a, b) < IDENTITY


def test_a_lost_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of covariates with a pair too small by 1 %: no step is the same."""
    pairs = linear.pairs

    def wrong(x: Tensor) -> Tensor:
        found = pairs(x)
        found[1] *= 0.99
        return found

    monkeypatch.setattr(linear, "pairs", wrong)
    lines, rows = both(summed, monkeypatch)
    assert farthest(em_step(lines.compiled, lines.plan, lines.here)[0], maximise_of(rows)) > 1e-6


def maximise_of(built: Built) -> dict[str, Tensor]:
    """One step."""
    return em_step(built.compiled, built.plan, built.here)[0]


def largest(rows: int) -> int:
    """The largest tensor of one step of a mixture of linear regressions."""
    x, y = regressions.simulate(rows)
    built = lay_out(regressions.linear, (x, y))
    built.compiled  # noqa: B018
    with Largest() as mode:
        em_step(built.compiled, built.plan, built.here)
    return mode.size


def test_memory_does_not_grow_with_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of a step grows with eight times the rows but by what chunks differ in; with a cell a row all would."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 14)
    few, many = largest(2_000), largest(16_000)
    assert many <= 9 / 8 * few
    monkeypatch.setattr(layout, "linear_of", lambda factor, form: None)
    assert largest(16_000) > 7 * largest(2_000)


def test_a_covariate_without_rows_is_an_empty_state() -> None:
    """A dummy that is one only where a component has no rows left: its coefficient there is known from nothing."""
    generator = torch.Generator().manual_seed(5)
    x = torch.ones((40, 2))
    x[:30, 1] = 0
    y = torch.cat([torch.zeros(20), torch.full((20,), 100.0)]) + torch.randn(40, generator=generator)

    def model(x: Tensor, y: Tensor) -> None:
        coef, scale = pyro.param("coef", tensor([[0.0, 0.0], [200.0, 100.0]])), scales()
        with pyro.plate("rows", len(y)):
            z = states(len(y))
            pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), scale[z]), obs=y)

    with pyro.get_param_store().scope():
        fit = EM(model, max_steps=3).fit(x, y)
    assert fit.outcome == "empty state"


def test_a_posterior_and_a_fit_far_from_zero() -> None:
    """An offset of a million moves the intercepts and nothing else."""
    x, y = regressions.simulate(200)
    fits, laws = [], []
    for by in (0.0, 1e6):
        start = {"coef": tensor([[1.0 + by, 1.0], [-1.0 + by, -0.5]]), "weights": tensor([0.5, 0.5])}
        with pyro.get_param_store().scope():
            em = EM(regressions.linear, starts=start, max_steps=500)
            fits.append(em.fit(x, y + by))
            laws.append(em.posterior(x, y + by).marginal("component"))
    assert distance(fits[1].objective, fits[0].objective) < 1e-7  # the data themselves have ten digits there
    assert distance(fits[1].params["coef"] - tensor([[1e6, 0.0]]), fits[0].params["coef"]) < 1e-4
    assert torch.allclose(torch.as_tensor(laws[1]), torch.as_tensor(laws[0]), atol=1e-4)


def test_a_start_far_off_keeps_its_digits() -> None:
    """Sums around coefficients a billion scales away say nothing of the scale: a second pass does."""
    plain, y = data()
    x = plain * tensor([1.0, 1e9, 1e-9])

    def model(x: Tensor, y: Tensor) -> None:
        coef = pyro.param("coef", tensor([0.4, -1.3, 0.2]))
        scale = pyro.param("scale", tensor(1e9), constraint=constraints.positive)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ coef, scale), obs=y)

    found = EM(model).fit(x, y).params["scale"]
    residual = y - plain @ torch.linalg.lstsq(plain, y.unsqueeze(-1)).solution.squeeze(-1)
    assert found == pytest.approx(float(residual.square().mean().sqrt()), rel=SOLVERS)
