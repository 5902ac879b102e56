"""A model that changes its data, or hides a parameter from autograd, is found out."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.errors import ModelError
from em_pyro.program.changes import same

X = torch.tensor([0.0, 0.5, 0.2, 3.0, 3.5, 2.9, 0.1], dtype=torch.float64)


def mixture(x: Tensor, change: Callable[[Tensor], Tensor] = lambda loc: loc) -> None:
    """Mix two normals."""
    loc = change(pyro.param("loc", torch.tensor([-1.0, 2.0], dtype=torch.float64)))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def in_place(x: Tensor) -> None:
    """Write into the argument."""
    x += 0.1
    mixture(x)


def in_part(x: Tensor) -> None:
    """Write into a part, and observe it."""
    x[1:] *= 1.01
    mixture(x[1:])


@pytest.mark.parametrize("model", [in_place, in_part])
def test_data_that_a_model_writes_into(model: Callable[[Tensor], None]) -> None:
    """There is no one likelihood."""
    with pytest.raises(ModelError, match="expected the same data in every run"):
        EM(model).fit(X.clone())


def test_a_copy_may_be_written_into() -> None:
    """What the model makes is its own."""

    def model(x: Tensor) -> None:
        x = x.clone()
        x += 1
        mixture(x)

    assert EM(model).fit(X).outcome == "converged"


@pytest.mark.parametrize("seed", range(6))
def test_a_branch_on_random_numbers(seed: int) -> None:
    """It is found out whichever way the first runs went."""

    def model(x: Tensor) -> None:
        mixture(x)
        if torch.rand(()) < 0.5:
            pyro.sample("more", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    em = EM(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with pytest.raises(ModelError, match='^Site "more": expected the same statements'):
            em.fit(X)


def test_a_parameter_by_way_of_numpy() -> None:
    """The value is another, no gradient tells: a note names the parameter, and the end is not confirmed."""
    fit = EM(lambda x: mixture(x, lambda loc: torch.tensor(loc.detach().numpy()).exp())).fit(X)
    assert fit.outcome == "unconfirmed"
    assert any("no gradient reaches" in note and "loc" in note for note in fit.notes)


def test_a_detached_parameter_is_at_no_maximum() -> None:
    """Where nothing else is wrong with the end either: no slope tells it."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([0.0, 3.0], dtype=torch.float64)).detach()
        scale = pyro.param("scale", torch.tensor(1.0, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64)))
            pyro.sample("x", dist.Normal(loc[z], scale), obs=x)

    fit = EM(model).fit(torch.tensor([-1.0, 0.2, 0.9, 3.1, 4.0], dtype=torch.float64))
    assert fit.outcome == "unconfirmed"
    assert any('no slope by "loc" is known' in note for note in fit.notes)


def test_a_law_expanded_to_all_states_and_rows_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of its last number is found, however it is laid out; what is compared is no larger than the law."""
    law, seen, compared = torch.rand(1, 5), [], torch.equal
    monkeypatch.setattr(same.torch, "equal", lambda a, b: seen.append(a.numel()) or compared(a, b))
    other = law.clone()
    other[0, -1] += 1e-3
    shape = (2000, 300, 5)
    assert same.equal(law.expand(shape), law.clone().expand(shape))
    assert not same.equal(law.expand(shape), other.expand(shape))
    assert max(seen) == 5
    assert same.equal(law.expand(shape), law.expand(shape).contiguous())
    assert not same.equal(law.expand(shape), other.expand(shape).contiguous())


def of_its_own() -> None:
    """Draw the data anew in every run."""
    x = torch.randn(20, dtype=torch.float64)
    loc = pyro.param("loc", torch.tensor(0.3, dtype=torch.float64))
    with pyro.plate("rows", 20):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def of_random_rows() -> None:
    """Observe some of the rows, others in every run."""
    loc = pyro.param("loc", torch.tensor(0.3, dtype=torch.float64))
    with pyro.plate("rows", 4):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=X[torch.randperm(len(X))[:4]])


def dropped_out() -> None:
    """Drop covariates at random, as a network in training does."""
    slope = pyro.param("slope", torch.tensor(0.3, dtype=torch.float64))
    with pyro.plate("rows", len(X)):
        pyro.sample("y", dist.Normal(slope * torch.nn.functional.dropout(X, 0.5), 1.0), obs=X)


@pytest.mark.parametrize("model", [of_its_own, of_random_rows, dropped_out])
def test_random_numbers_in_a_program_without_latents(model: Callable[[], None]) -> None:
    """One draw is no likelihood, though torch's generator, which no run moves, gives the same one again."""
    with pytest.raises(ModelError, match="Draw no random numbers"):
        EM(model).fit()
