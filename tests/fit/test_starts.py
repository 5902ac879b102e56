"""Where a fit starts: one rule for every program, by its own seed, which moves nobody else's generator."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.loops import mixture, points
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.fit.starting.starts
from em_pyro import EM, Fit


def drawn(x: Tensor) -> None:
    """Mix Normals whose locations are redrawn by a callable."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: 2 + 2 * torch.randn(2))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def two_signs(x: Tensor) -> None:
    """Observe a square, so that the parameter's sign is free; no latents at all."""
    root = pyro.sample("root", dist.Normal(0.5, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(root**2, 1.0), obs=x)


PROGRAMS: dict[str, tuple[Callable[..., None], tuple[Tensor, ...]]] = {
    "latents": (mixture, (points(),)),
    "callable": (drawn, (points(),)),
    "priors": (build("gamma_rates").model, build("gamma_rates").args),
    "no latents": (two_signs, (tensor([3.5, 4.5, 4.0]),)),
}


def fitted(name: str, *, starts: int, seed: int = 0) -> Fit:
    """Fit a program afresh, for a few steps."""
    model, args = PROGRAMS[name]
    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        return EM(model, starts=starts, seed=seed, max_steps=5).fit(*(arg.double() for arg in args))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_start_depends_on_its_seed_and_index_alone(name: str) -> None:
    """Start 1 of two is start 1 of four; the state of the global generator does not enter, and does not move."""
    if name != "callable":  # whose first value is the user's own, drawn as pyro.param draws it
        torch.manual_seed(1)
    few = fitted(name, starts=2)
    torch.manual_seed(1 if name == "callable" else 2)
    pyro.set_rng_seed(0)
    before = torch.get_rng_state()
    many = fitted(name, starts=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert [run.objective for run in few.starts] == [run.objective for run in many.starts][:2]


@pytest.mark.parametrize("name", PROGRAMS)
def test_starts_and_seeds_differ(name: str) -> None:
    """Random starts lead along different paths, and so do seeds."""
    first, other = (fitted(name, starts=4, seed=seed) for seed in (0, 1))
    assert len({run.objective for run in first.starts}) > 1
    assert [run.objective for run in first.starts] != [run.objective for run in other.starts]


def test_a_start_would_follow_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn without a seed of its own, a site with a prior starts anywhere: the law above notices."""
    monkeypatch.setattr(em_pyro.fit.starting.starts, "_from_priors", lambda engine, values, seed, index: dict(values))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(fitted("no latents", starts=1).path[0])
    assert found[0] != found[1]


def test_the_first_start_is_the_users() -> None:
    """Start 0 is what `pyro.param` returns, from the store if it is there."""
    x = points()
    own = EM(mixture).posterior(x).log_evidence
    assert EM(mixture, starts=3, max_steps=0).fit(x).path[0] >= own - 1e-9
    pyro.clear_param_store()
    assert EM(mixture, max_steps=0).fit(x).path[0] == pytest.approx(own, abs=1e-9)
    pyro.get_param_store()["loc"] = tensor([0.5, 4.0])
    assert EM(mixture, max_steps=0).fit(x).params["loc"].tolist() == [0.5, 4.0]


def test_both_signs_are_found() -> None:
    """Without latents a random start is a draw of the prior: the positive root, where the prior is higher, wins."""
    x = tensor([3.5, 4.5, 4.0])
    fit = EM(two_signs, starts=12).fit(x)
    objectives = {round(run.objective, 4) for run in fit.starts}
    assert len(objectives) == 2
    assert float(fit.params["root"]) > 0


def test_equals_keep_the_users_labels() -> None:
    """Where several starts reach the same maximum, the answer is that of the first, with the labels it was given."""
    x = points()
    for loc in (tensor([-1.0, 5.0]), tensor([5.0, -1.0])):
        pyro.clear_param_store()
        pyro.get_param_store()["loc"] = loc
        fit = EM(mixture, starts=4).fit(x)
        assert fit.starts.found > 1
        assert torch.equal(fit.params["loc"].argsort(), loc.argsort())
