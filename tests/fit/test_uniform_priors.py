"""Priors that are level at a boundary: a maximum that lies there is one, and is looked at as any other."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.reading import priors

ANSWERS = tensor([[0, 1, 2], [1, 1, 2], [0, 0, 1], [1, 0, 2], [0, 1, 1], [2, 2, 0], [2, 2, 0], [1, 2, 0], [2, 1, 0]])
STEPS = tensor([0, 0, 1, 2, 2, 0, 1, 2, 2, 0, 0, 0, 1, 1, 2, 2])  # nothing goes back by one
START = tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], dtype=torch.float64)


def classes(prior: Callable[[], Tensor]) -> None:
    """Latent classes: no item has all its answers in both."""
    p = prior()
    with pyro.plate("rows", len(ANSWERS), dim=-2):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=torch.float64)))
        with pyro.plate("items", 3, dim=-1):
            pyro.sample("x", dist.Categorical(p[z, torch.arange(3)]), obs=ANSWERS)


def chain(prior: Callable[[], Tensor]) -> None:
    """Moves that were seen."""
    move = prior()
    with pyro.plate("rows", len(STEPS) - 1):
        pyro.sample("x", dist.Categorical(move[STEPS[:-1]]), obs=STEPS[1:])


def uniform(shape: tuple[int, ...], concentration: Tensor) -> Callable[[], Tensor]:
    """A prior on simplexes."""
    return lambda: pyro.sample("p", dist.Dirichlet(concentration.double().expand(*shape, 3)).to_event(len(shape)))


def free(shape: tuple[int, ...]) -> Callable[[], Tensor]:
    """No prior."""
    return lambda: pyro.param("p", torch.ones(*shape, 3, dtype=torch.float64) / 3, constraint=constraints.simplex)


def hanging(shape: tuple[int, ...]) -> Callable[[], Tensor]:
    """The same prior by a term of the model, which is recorded."""

    def prior() -> Tensor:
        p = free(shape)()
        pyro.factor("prior", dist.Dirichlet(torch.ones(3, dtype=torch.float64)).log_prob(p).sum())
        return p

    return prior


@pytest.mark.parametrize(("model", "shape"), [(classes, (2, 3)), (chain, (3,))])
def test_a_level_prior_changes_nothing(model: Callable[..., None], shape: tuple[int, ...]) -> None:
    """The maximum at the boundary is that of the likelihood; where torch climbs it, perhaps another one."""
    values = START[:, None].expand(2, 3, 3) if len(shape) == 2 else torch.ones(3, 3, dtype=torch.float64) / 3
    found = []
    for prior in (free(shape), uniform(shape, torch.ones(3)), hanging(shape)):
        pyro.clear_param_store()
        found.append(EM(model, starts={"p": values}).fit(prior))
        assert found[-1].outcome == "converged", found[-1]
        assert not any("slope" in note or "not looked at" in note for note in found[-1].notes)
        assert (found[-1].params["p"] < 1e-6).any()
    assert found[1].log_likelihood == pytest.approx(found[0].log_likelihood, rel=SOLVERS)
    mine, theirs = (fit.information().se["p"].flatten().tolist() for fit in found[:2])
    assert theirs == pytest.approx(mine, rel=1e-3, nan_ok=True)


def test_without_it_no_maximum_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero over zero is no slope."""
    monkeypatch.setattr(priors, "Defined", torch.enable_grad)
    pyro.clear_param_store()
    fit = EM(classes, starts={"p": START[:, None].expand(2, 3, 3)}).fit(uniform((2, 3), tensor([1.0, 2.0, 1.0])))
    assert fit.outcome == "unconfirmed"
