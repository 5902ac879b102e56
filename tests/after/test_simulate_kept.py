"""Data drawn at fitted values: labels, masked entries, dtypes, the store and global generators stay as they are."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from programs.drawn import fitted, mixture
from torch import Tensor, tensor

from em_pyro import ParameterError

TABLE = tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)


def labelled(x: Tensor, label: Tensor, known: Tensor) -> None:
    """Know the class of some rows."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])), obs=label, obs_mask=known)  # type: ignore[arg-type]
        pyro.sample("x", dist.Normal(pyro.param("step", tensor(50.0)) * z, 1.0), obs=x)


def test_labels_stay() -> None:
    """Rows of a known class are drawn from it, the others from both."""
    label, known = torch.tensor([1, 0]).repeat(200), torch.arange(400) < 200
    x = fitted(labelled, torch.zeros(400), label, known).simulate()
    assert list(x) == ["x"]
    level = x["x"].div(50).round().long()
    assert torch.equal(level[:200], label[:200])
    assert set(level[200:].tolist()) == {0, 1}
    assert not torch.equal(level[200:], label[200:])


def masked(x: Tensor, seen: Tensor) -> None:
    """Leave some coordinates out."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        loc = pyro.param("loc", tensor([[5.0, 5.0], [9.0, 9.0]]))
        pyro.sample("x", dist.Normal(loc[z], 1.0).mask(seen).to_event(1), obs=x)


def hidden_in_part(x: Tensor, seen: Tensor) -> None:
    """Leave some steps of a chain out."""
    with pyro.plate("sequences", len(x)):
        loc = pyro.param("loc", tensor([5.0, 9.0]))
        law = dist.DiscreteHMM(torch.zeros(2), TABLE.log(), dist.Normal(loc, 1.0).mask(seen.unsqueeze(-1)))
        pyro.sample("x", law, obs=x)


@pytest.mark.parametrize("model", [masked, hidden_in_part])
def test_what_is_masked_stays(model: Callable[[Tensor, Tensor], None]) -> None:
    """Entries that nobody sees keep what stands there; the others are drawn."""
    seen = torch.arange(8).reshape(4, 2) % 3 > 0
    x = torch.where(seen, 6.0, -99.0)
    drawn = fitted(model, x, seen).simulate(seed=5)["x"]
    assert bool((drawn[~seen] == -99.0).all())
    assert bool((drawn[seen] != 6.0).all())
    assert bool((drawn[seen] > -50.0).all())


def test_dtypes_are_those_of_the_data() -> None:
    """Counts stay integers, truth values stay truth values; what is no integer is not rounded."""

    def model(n: Tensor, b: Tensor, y: Tensor) -> None:
        with pyro.plate("rows", len(n)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("n", dist.Poisson(pyro.param("rate", tensor([1.0, 9.0]))[z]), obs=n)
            pyro.sample("b", dist.Bernoulli(tensor([0.2, 0.8])[z]), obs=b)
            pyro.sample("y", dist.Normal(z.double(), 1.0), obs=y)

    args = torch.tensor([1, 8, 0, 12]), tensor([True, False, True, False]), torch.tensor([0, 1, 1, 0])
    drawn = fitted(model, *args).simulate()
    assert [drawn[name].dtype for name in ("n", "b", "y")] == [torch.int64, torch.bool, torch.float64]
    fit = fitted(mixture, torch.zeros(4, 2, dtype=torch.float32))
    assert fit.simulate()["x"].dtype == torch.float32


def test_seeds() -> None:
    """A seed is a draw, and no global generator moves."""
    fit = fitted(mixture, torch.zeros(4, 2))
    before = torch.get_rng_state()
    one, same, other = (fit.simulate(seed=seed)["x"] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(ParameterError, match="seed to be an integer, got 0.5"):
        fit.simulate(seed=0.5)  # type: ignore[arg-type]


def test_the_store_does_not_matter() -> None:
    """Other values in it are neither used nor touched."""
    fit = fitted(mixture, torch.zeros(4, 2))
    want = fit.simulate()["x"]
    pyro.clear_param_store()
    pyro.param("loc", torch.full((2, 2), 1e6))
    close(fit.simulate()["x"], want)
    assert list(pyro.get_param_store().keys()) == ["loc"]
