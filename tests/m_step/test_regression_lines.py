"""Arguments that are lines in covariates but for a link: `Q` and its derivatives, block by block."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.problem import prepare
from em_pyro.m_step.regression import irls, lines
from em_pyro.m_step.regression.irls import Regression
from em_pyro.m_step.regression.lines import Lines, Logits
from em_pyro.program.named import batched
from em_pyro.reading.design import apart

N, D, C, K = 40, 3, 4, 2
Model = Callable[..., None]


def draws(*shape: int) -> Tensor:
    """Numbers that are the same in every test."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Covariates, a class and a number of each row."""
    x = draws(N, D)
    return x, (x[:, 0] + draws(N)).argsort().argsort() * C // N, x.sum(-1) + draws(N + 1)[:N]


def mixture_of_experts(x: Tensor, y: Tensor, t: Tensor) -> None:
    """The weights of the components depend on the row."""
    gate = pyro.param("gate", draws(D, K))
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(logits=x @ gate))
        pyro.sample("t", dist.Normal(loc[z], 1.0), obs=t)


def of_a_baseline(x: Tensor, y: Tensor, t: Tensor) -> None:
    """The logit of the first class is zero, and the others have levels."""
    slopes, levels = pyro.param("slopes", draws(D, C - 1)), pyro.param("levels", torch.zeros(C - 1))
    with pyro.plate("rows", len(x)):
        logits = torch.cat([torch.zeros(len(x), 1), levels + x @ slopes], -1)
        pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def by_component(x: Tensor, y: Tensor, t: Tensor) -> None:
    """Every component has coefficients of its own, and rows are weighted and masked."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    slopes = pyro.param("slopes", draws(K, C, D))
    with (
        pyro.plate("rows", len(x)),
        pyro.poutine.mask(mask=torch.arange(len(x)) % 5 > 0),
        pyro.poutine.scale(scale=1.5),
    ):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Categorical(logits=(slopes[z] @ x.unsqueeze(-1)).squeeze(-1)), obs=y)


def of_distances(x: Tensor, y: Tensor, t: Tensor) -> None:
    """One slope serves all classes: its covariate is a multiple of the row's in each of them."""
    slope, levels = pyro.param("slope", tensor(0.5)), pyro.param("levels", draws(C))
    with pyro.plate("rows", len(x)):
        logits = levels + slope * x[:, :1] * tensor([0.0, 1.0, 2.0, 4.0])
        pyro.sample("y", dist.Multinomial(1, logits=logits), obs=torch.nn.functional.one_hot(y, C).double())


def detections(x: Tensor, y: Tensor, t: Tensor) -> None:
    """What is not there is never seen, by how many visits a row has."""
    there, seen = pyro.param("there", tensor(0.3)), pyro.param("seen", draws(D + 1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(logits=there))
        p = torch.sigmoid(seen[0] + x * seen[1:]) * z.unsqueeze(-1)
        pyro.sample("y", dist.Bernoulli(p).to_event(1), obs=(x > 1) & (y > 1).unsqueeze(-1))


def many_zeros(x: Tensor, y: Tensor, t: Tensor) -> None:
    """Rates that are zero in one of three states, and lines in the other two."""
    slopes, levels = pyro.param("slopes", draws(D)), pyro.param("levels", tensor([0.1, 1.0]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.2, 0.5, 0.3])))
        rate = torch.exp(levels[(z - 1).clamp(min=0)] + x @ slopes) * (z > 0)
        pyro.sample("y", dist.Poisson(rate), obs=y.double())


def certain_answers(x: Tensor, y: Tensor, t: Tensor) -> None:
    """Who knows is always right, the others by luck."""
    luck = pyro.param("luck", draws(D))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.4))
        pyro.sample("y", dist.Bernoulli(torch.where(z > 0, 1.0, torch.sigmoid(x @ luck))), obs=(y > 0).double())


CERTAIN: dict[str, Model] = {
    "detections": detections,
    "many zeros": many_zeros,
    "certain answers": certain_answers,
}
PROGRAMS: dict[str, Model] = {
    **CERTAIN,
    "mixture of experts": mixture_of_experts,
    "of a baseline": of_a_baseline,
    "by component": by_component,
    "of distances": of_distances,
}


def regression(model: Model) -> tuple[Regression, Any]:
    """The solver of the logits, and the statistics at the start."""
    pyro.clear_param_store()
    problem = prepare(model, data(), {}, {}, check=False)
    here = batched({name: p.initial.double() for name, p in problem.program.parameters.items()})
    (solver,) = (s for s in problem.plan.solvers if isinstance(s, Regression))
    return solver, (problem.engine.expect(problem.engine.bind(here)).sums, here)


@pytest.mark.parametrize("name", PROGRAMS)
def test_sums_over_blocks_are_derivatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same `Q`, slope and curvature as by autograd through the density, in blocks of seven rows."""
    monkeypatch.setattr(lines, "rows_of", lambda width: 7)
    solver, (sums, here) = regression(PROGRAMS[name])
    theta = solver.coordinates(here)
    pairs = zip(solver.sites, solver.lines, solver._sums(sums), strict=True)
    ((site, line, some),) = [(s, line, part) for s, line, part in pairs if line is not None]
    assert (isinstance(line, Lines) and line.free is not None) == (name in CERTAIN)
    for got, want in zip(line.expand(theta, some), irls._expanded(site, theta, some), strict=True):
        total = (len(got), -1)
        if got.dim() == want.dim() and got.shape != want.shape:
            got, want = got.reshape(total).sum(-1), want.reshape(total).sum(-1)
        same(got, want, IDENTITY)


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_are_those_of_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of EM by lines, and without them."""
    ends = []
    for off in (False, True):
        if off:
            monkeypatch.setattr(irls, "lines_of", lambda site: None)
        pyro.clear_param_store()
        ends.append(EM(PROGRAMS[name], tol=0, acceleration=None, max_steps=3).fit(*data()))
    same(torch.as_tensor(ends[0].path), torch.as_tensor(ends[1].path), SOLVERS)


def test_what_multiplies_rows_and_cells_is_told_apart() -> None:
    """A product of a covariate and a number of each class is; what is no product is not."""
    row, cell = draws(N, 1), tensor([[0.0, 1.0, 2.0]])
    found = apart._column(row * cell, [0])
    assert found is not None
    same(found[0] * found[1], row * cell)
    assert found[0].shape == (N, 1)
    assert found[1].shape == (1, 3)
    assert apart._column(row * cell + tensor([[0.0, 0.0, 1e-9]]), [0]) is None


def test_classes_have_no_slots_of_others() -> None:
    """Coefficients of a class take its own entries and those of the first, by which logits are measured."""
    solver, _ = regression(by_component)
    (line,) = (line for line in solver.lines if isinstance(line, Logits))
    (piece,) = line.coefficients.pieces
    assert piece.index.shape[-1] <= 2
    taken = piece.index.reshape((-1, C, piece.index.shape[-2:].numel()))[:, 1:]
    assert all(len({k for k in some if k >= 0}) == 2 * D for some in taken.flatten(0, 1).tolist())
