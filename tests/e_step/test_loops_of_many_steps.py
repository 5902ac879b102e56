"""A `pyro.markov` loop is planned and run as one thing: work is counted, not timed. And what such chains are fed."""

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import discrete_hmm, hidden_markov
from oracles.steps import expect
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.utils._python_dispatch import TorchDispatchMode

from em_pyro import EM, DataError, ParameterError
from em_pyro.e_step.chains.chain import Chain
from em_pyro.fit.problem import prepare
from em_pyro.reading import match


def counts(steps: int, rows: int = 1) -> Tensor:
    """Counts that alternate between two levels."""
    generator = torch.Generator().manual_seed(steps)
    return torch.poisson(2.0 + 6.0 * (torch.arange(steps) // 5 % 2).expand(rows, steps), generator=generator)


class Operations(TorchDispatchMode):
    """Count the tensor operations inside."""

    def __init__(self) -> None:
        """Start at none."""
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        """Count one."""
        self.count += 1
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def planned(model: Callable[..., None], *args: object) -> object:
    """The engine of a model."""
    pyro.clear_param_store()
    return prepare(model, args, {}, {}, check=False).engine


def test_a_loop_is_one_unit() -> None:
    """One factor is contracted, whatever the number of steps, and an E-step costs no operations per site."""
    used = []
    for steps in (10, 20):
        engine = planned(hidden_markov.poisson, counts(steps))
        assert [type(unit) for unit in engine.units] == [Chain]
        assert len(engine.parts[0].names) == 1
        params = {name: value.initial.double() for name, value in engine.program.parameters.items()}
        expect(engine, params)
        with Operations() as operations:
            expect(engine, params)
        used.append(operations.count)
    per_step = (used[1] - used[0]) / 10
    assert per_step <= 16  # a step forwards and a step backwards
    site = planned(discrete_hmm.poisson, counts(20))
    assert isinstance(site.units[0], Chain)
    with Operations() as operations:
        expect(site, {name: value.initial.double() for name, value in site.program.parameters.items()})
    assert used[1] < 1.3 * operations.count


def test_steps_are_matched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the steps, as many searches for where an argument comes from."""
    searches = []
    search = match._search
    for steps in (10, 20):
        calls: list[int] = []
        monkeypatch.setattr(match, "_search", lambda *a, calls=calls, **k: (calls.append(1), search(*a, **k))[1])
        planned(hidden_markov.poisson, counts(steps))
        searches.append(len(calls))
    assert searches[0] == searches[1] > 0


def test_an_argument_of_one_step_is_told_from_the_others() -> None:
    """Equal values are matched once, so unequal ones must not be: one step of the loop scales its rate by two."""

    def model(y: Tensor) -> None:
        rate = pyro.param("rate", tensor([1.5, 7.0]), constraint=constraints.positive)
        x = None
        for t in pyro.markov(range(y.shape[1])):
            law = tensor([[0.8, 0.2], [0.3, 0.7]])[x] if x is not None else tensor([0.5, 0.5])
            x = pyro.sample(f"x_{t}", dist.Categorical(law))
            pyro.sample(f"y_{t}", dist.Poisson(rate[x] * (2.0 if t == 4 else 1.0)), obs=y[0, t])

    fit = EM(model, tol=0, max_steps=3).fit(counts(14))  # the fit ends by comparing with the model's own log_prob
    assert fit.plan["rate"].closed_form
    assert not any("withdrawn" in note for note in fit.notes)


# ---- data that are hard for a chain ----------------------------------------------------------------------------------

FORMS = {"loop": hidden_markov, "site": discrete_hmm}


def test_a_sequence_of_length_zero_counts_for_nothing() -> None:
    """In a loop, with it and without it, every step of EM is the same; as a site of its own it is refused."""
    y = counts(8, 3)
    start = {
        "rate": tensor([2.5, 6.0]),
        "initial": tensor([0.4, 0.6]),
        "transition": tensor([[0.8, 0.2], [0.3, 0.7]]),
    }
    both = []
    for data in ((y, tensor([8, 0, 6])), (y[[0, 2]], tensor([8, 6]))):
        pyro.clear_param_store()
        both.append(EM(hidden_markov.poisson, tol=0, max_steps=4, starts=start).fit(*data))
    for name in start:
        assert float((both[0].params[name] - both[1].params[name]).abs().max()) < 1e-10
    assert abs(both[0].log_likelihood - both[1].log_likelihood) < 1e-9
    with pytest.raises(DataError, match="at least one step in every sequence"):
        EM(discrete_hmm.poisson).fit(y, tensor([8, 0, 6]))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_category_never_observed(form: object) -> None:
    """Its estimate is an honest zero, also where the table has so many columns that they are looked up."""
    symbols = torch.tensor([[0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1, 2]])
    for C in (5, 20):
        pyro.clear_param_store()
        model = partial(form.categorical, S=2, C=C)  # type: ignore[attr-defined]
        probs = EM(model, max_steps=5).fit(symbols).params["probs"]
        assert torch.equal(probs[:, 3:], torch.zeros(2, C - 3))
        assert float((probs.sum(-1) - 1).abs().max()) < 1e-12


def test_a_category_never_observed_under_a_prior() -> None:
    """Its estimate is the prior's share, (a - 1) over what the state has in all."""

    def model(y: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.full((2, 5), 3.0)).to_event(1))
        transition = pyro.param("transition", tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
        hmm = dist.DiscreteHMM(torch.zeros(2), transition.log(), dist.Categorical(probs), duration=len(y))
        pyro.sample("y", hmm, obs=y)

    symbols = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1, 2])
    fit = EM(model, tol=1e-12).fit(symbols)
    weight = fit.posterior.marginal("y").sum(0)
    want = 2.0 / (weight + 10.0)
    assert float((fit.params["probs"][:, 3:] - want[:, None]).abs().max()) < 1e-5


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_more_states_than_distinct_values(form: object) -> None:
    """The fit ends in a named way, and no parameter is nan."""
    y = torch.tensor([[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 1.0]])
    for model in (partial(form.poisson, S=4), partial(form.gaussian, S=4)):  # type: ignore[attr-defined]
        pyro.clear_param_store()
        fit = EM(model, starts=2, max_steps=60).fit(y)
        assert fit.outcome in ("converged", "step limit", "degenerate", "empty state")
        assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())


def test_rows_of_transitions_that_do_not_sum_to_one() -> None:
    """The error names the parameter, the sums and what to change; what `pyro.param` is given is normalised, as by it.

    Rows that a program passes on without a simplex constraint cannot be told: distributions normalise them.
    """
    rows = tensor([[0.8, 0.3], [0.3, 0.7]])

    def model(y: Tensor) -> None:
        transition = pyro.param("transition", rows, constraint=constraints.simplex)
        loc = pyro.param("loc", tensor([0.0, 3.0]))
        hmm = dist.DiscreteHMM(torch.zeros(2), transition.log(), dist.Normal(loc, 1.0), duration=len(y))
        pyro.sample("y", hmm, obs=y)

    with pytest.raises(ParameterError, match=r'"transition": expected .* rows that sum to \[1\.1, 1\.0\], not to one'):
        EM(model, starts={"transition": rows}).fit(torch.randn(6))
    em = EM(model)
    em.plan(torch.randn(6))
    assert torch.allclose(em.params["transition"], rows / rows.sum(-1, keepdim=True))
