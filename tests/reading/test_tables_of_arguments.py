"""Arguments that no row enters are tables: what is one, that it is the model's own argument, and where it ends."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, PlanError
from em_pyro.e_step.engine import Engine
from em_pyro.fit.problem import Problem, prepare
from em_pyro.program.named import batched
from em_pyro.reading.design import tabled, tables

N = 40

Law = Callable[[Tensor], Any]


def numbers(*shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def prepared(model: Callable[..., None], *args: Any) -> Problem:
    """Read a program, and keep all its rows."""
    pyro.clear_param_store()
    return prepare(model, args, {}, {}, check=False, collapse=False)


def engine(model: Callable[..., None], *args: Any) -> Engine:
    """Lay a program out."""
    return prepared(model, *args).engine


def mixture(law: Law) -> Callable[[Tensor], None]:
    """Two components, with an observation by `law` of the component."""

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(z), obs=x)

    return model


def real(name: str, *values: float) -> Tensor:
    """State a real parameter."""
    return pyro.param(name, tensor(values))


def unit(name: str, *values: float) -> Tensor:
    """State a probability."""
    return pyro.param(name, tensor(values), constraint=constraints.unit_interval)


def covariance(z: Tensor) -> Any:
    """A covariance by a correlation and a standard deviation of each component."""
    r, s = unit("r", 0.3, 0.6), real("s", 1.1, 0.8)
    one = torch.stack([torch.stack([torch.ones(2), r], -1), torch.stack([r, torch.ones(2)], -1)], -1)
    return dist.MultivariateNormal(torch.zeros(2), (s[:, None, None] ** 2 * one)[z])


LAWS: dict[str, tuple[Law, Callable[[], Tensor]]] = {
    "logits": (lambda z: dist.Bernoulli(logits=real("a", -0.4, 0.9)[z] ** 3), lambda: (numbers(N) > 0).double()),
    "probabilities": (lambda z: dist.Binomial(5, unit("p", 0.4, 0.7).prod() ** (z + 1.0)),
                      lambda: (numbers(N) > 0).double() * 3),
    "a row of logits": (lambda z: dist.Categorical(logits=torch.outer(real("a", -0.4, 0.9), real("b", 1, 0.3, -1))[z]),
                        lambda: torch.arange(N) % 3),
    "a row of probabilities": (lambda z: dist.Categorical(
        torch.stack([unit("p", 0.4, 0.7) ** 3, 1 - unit("p", 0.4, 0.7) ** 3], -1)[z]), lambda: torch.arange(N) % 2),
    "location": (lambda z: dist.Normal((real("a", -0.4, 0.9) ** 3)[z], real("s", 0.9).exp()), lambda: numbers(N)),
    "rate": (lambda z: dist.Poisson(real("a", 0.4, 0.9).exp().cumsum(0)[z]), lambda: torch.arange(N) % 4.0),
    "degrees of freedom": (lambda z: dist.StudentT(2 + real("a", 0.4, 0.9)[z] ** 2, 0.0, 1.0), lambda: numbers(N)),
    "covariance": (covariance, lambda: numbers(N, 2)),
    "mean and size": (lambda z: dist.BetaBinomial(5 * unit("p", 0.4, 0.7)[z], 5 * (1 - unit("p", 0.4, 0.7)[z]), 6),
                      lambda: torch.arange(N) % 7.0),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_a_table_is_the_argument(name: str) -> None:
    """Evidence, `Q` and its gradient away from the start are those of the model's own densities."""
    law, data = LAWS[name]
    model, x = mixture(law), data()
    problem = prepared(model, x)
    by_table, by_model = problem.engine, problem.without(frozenset(), frozenset({"x"}), "as asked").engine
    assert by_table.recognition.tabled == ("x",)
    assert not by_table.moving
    assert by_model.moving == ("x",)
    params = {n: p.initial.double() * (0.9 if n != "weights" else 1.0) for n, p in by_table.program.parameters.items()}
    seen = []
    for one in (by_table, by_model):
        found = one.expect(one.bind(batched(params)))
        leaves = {n: v.clone().requires_grad_() for n, v in params.items()}
        with torch.enable_grad():
            slopes = torch.autograd.grad(one.q(batched(leaves), found).sum(), list(leaves.values()))
        seen.append((found.log_evidence, *slopes))
    for a, b in zip(*seen, strict=True):
        assert distance(a, b) < SOLVERS


def by_row(z: Tensor) -> Any:
    """A location that differs by row."""
    return dist.Normal(real("a", -0.4, 0.9)[z] ** 3 * torch.arange(N), 1.0)


def read_out(z: Tensor) -> Any:
    """A rate of which a number is read out on the way."""
    return dist.Poisson(
        real("a", 0.4, 0.9).exp().cumsum(0)[z] * (2.0 if float(real("a", 0.4, 0.9)[0].detach()) > 9 else 1.0)
    )


NONE: dict[str, tuple[Law, Callable[[], Tensor]]] = {
    "differs by row": (by_row, lambda: numbers(N)),
    "no family": (lambda z: dist.Logistic((real("a", -0.4, 0.9) ** 3)[z], 1.0), lambda: numbers(N)),
    "cannot be recorded": (read_out, lambda: torch.arange(N) % 4.0),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_table(name: str) -> None:
    """Sites that the model itself computes, as before."""
    law, data = NONE[name]
    found = engine(mixture(law), data())
    assert found.recognition.tabled == ()
    assert found.moving == ("x",)


def chain(y: Tensor) -> None:
    """A loop whose states change at a rate that is a third power."""
    change = unit("change", 0.4) ** 3
    moves = torch.stack([torch.cat([1 - change, change]), torch.cat([change, 1 - change])])
    state = tensor(0)
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"z{t}", dist.Categorical(moves[state]))
        pyro.sample(f"y{t}", dist.Normal((real("a", -0.4, 0.9) ** 3)[state], 1.0), obs=y[t])


def test_steps_of_a_loop_have_one_table() -> None:
    """A chain of thirty steps has a table for its transitions, one for its first state, and one for its emissions."""
    found = engine(chain, numbers(30))
    assert len(found.recognition.tabled) == 60
    segments = {s.parameter for s in (*found.recognition.bank.entries, *found.recognition.bank.probabilities)}
    assert segments == {"[probs of z0]", "[probs of z1]", "[loc of y0]"}
    assert len(found.units) == 1


@pytest.mark.parametrize(
    ("value", "domain", "allowed"),
    [(-0.1, "unit", False), (1.1, "unit", False), (-0.1, "simplex", False), (-0.1, "positive", False),
     (0.0, "unit", True), (1.0, "unit", True), (0.0, "simplex", True), (0.0, "positive", True), (-0.1, "real", True)],
)  # fmt: skip
def test_what_no_law_has_is_not_a_number(value: float, domain: str, *, allowed: bool) -> None:
    """An argument outside of what it may be is nan, and no step leads there; at its ends it has a slope of zero."""
    part = tensor([value, 0.3], dtype=torch.float64, requires_grad=True)
    found = tables.standing(part, domain, False)  # noqa: FBT003
    assert bool(found.isnan().any()) is not allowed
    (slope,) = torch.autograd.grad(found[1], part, retain_graph=True)
    assert bool(torch.isfinite(slope).all())
    if allowed:
        back = tables.STANDS[domain].forward(found) if domain in tables.STANDS else found
        close(back.detach(), part.detach(), IDENTITY)


def test_probabilities_next_to_one_keep_their_digits() -> None:
    """`1 - p` is never formed of a logit of forty: forty failures are a log-likelihood of minus sixteen hundred."""
    model = mixture(lambda z: dist.Bernoulli(logits=40 * real("a", 1.0, 1.1)[z] ** 3))
    found = engine(model, torch.zeros(N))
    assert found.recognition.tabled == ("x",)
    params = {"weights": tensor([0.4, 0.6]), "a": tensor([1.0, 1.0])}
    evidence = found.expect(found.bind(batched({n: v.double() for n, v in params.items()}))).log_evidence
    close(evidence, tensor([-40.0 * N]), IDENTITY)


def test_starts_have_tables_of_their_own() -> None:
    """A parameter that stands in an argument as it is, beside one that does not, is that of its start."""

    def law(z: Tensor) -> Any:
        return dist.Normal(real("a", -0.4, 0.9)[z] ** 3, pyro.param("s", tensor(0.9), constraint=constraints.positive))

    found = engine(mixture(law), numbers(N))
    assert found.recognition.tabled == ("x",)
    each = [{"weights": tensor([0.4, 0.6]), "a": tensor([k, 1.0]), "s": tensor(k)} for k in (0.5, 1.5)]
    both = found.bind({name: torch.stack([one[name] for one in each]) for name in each[0]}).entries
    close(both, torch.cat([found.bind(batched(one)).entries for one in each]), IDENTITY)


def test_a_state_without_rows_is_no_entry_of_a_table() -> None:
    """What has no rows is said of parameters; a table has no name that a user knows."""
    model = mixture(lambda z: dist.Poisson(real("a", 0.4, 9.0).exp().cumsum(0)[z]))
    pyro.clear_param_store()
    fit = EM(model, max_steps=1, check=False).fit(torch.arange(N) % 4.0)
    assert "[rate of x]" not in str(fit)


def test_a_table_that_is_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed is compared with the model before it is believed: the site is replayed."""
    right = tables.standing
    monkeypatch.setattr(tables, "standing", lambda part, *kind: right(part, *kind) * 1.001)
    assert engine(mixture(LAWS["location"][0]), numbers(N)).recognition.tabled == ()


def test_a_fit_is_that_of_the_model_itself() -> None:
    """Several starts at once end where they end if the model is replayed; other rows are read in the same way."""
    model, fits = mixture(LAWS["rate"][0]), []
    x = torch.cat([torch.arange(20) % 4.0, 9 + torch.arange(20) % 5.0])
    for reader in (lambda program, read, *_: read, tabled.with_tables):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tabled, "with_tables", reader)
            pyro.clear_param_store()
            fits.append(EM(model, tol=1e-11, starts=3, seed=0).fit(x))
    assert distance(tensor(fits[0].objective), tensor(fits[1].objective)) < SOLVERS
    assert distance(fits[0].information().se["a"], fits[1].information().se["a"]) < 1e-5
    laws = [fit.posterior_on(x[:6]).marginal("z") for fit in fits]
    assert distance(*laws) < 1e-4
    assert "its statistics are those of its family" in str(fits[1].plan)


def repeated(y: Tensor) -> None:
    """Five measurements of every row, around a number that differs by row."""
    bend = real("bend", 0.4)
    with pyro.plate("rows", len(y), dim=-2):
        z = pyro.sample("z", dist.Bernoulli(0.4))
        with pyro.plate("times", y.shape[1], dim=-1):
            centre = torch.linspace(0, 1, len(y)).unsqueeze(-1) ** bend.exp()
            pyro.sample("y", dist.Normal(centre + z, 1.0), obs=y)


def test_tables_of_rows_are_no_sums_over_them() -> None:
    """Tables that differ along the plate that comes in batches are refused there, and by name; in memory they do."""
    y = numbers(N, 5)
    assert engine(repeated, y).recognition.tabled == ("y",)
    pyro.clear_param_store()
    with pytest.raises(PlanError, match='Site "y": .* its arguments differ by row'):
        EM(repeated).fit_stream(lambda: ((y[k : k + 8],) for k in range(0, N, 8)))


def test_batches_of_one_row_are_read_as_all_are() -> None:
    """What is a table does not depend on how many rows there are."""
    law, data = LAWS["rate"]
    model, x = mixture(law), data()
    ends = []
    for batches in ([x], [x[:1], x[1:3], x[3:]]):
        pyro.clear_param_store()
        settings: dict[str, Any] = {"tol": 0.0, "max_steps": 5, "acceleration": None}
        ends.append(EM(model, **settings).fit_stream(lambda parts=batches: ((part,) for part in parts)).objective)
    assert distance(tensor(ends[0]), tensor(ends[1])) < IDENTITY
