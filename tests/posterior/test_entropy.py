"""The entropy of the posterior is that of brute force over all joint assignments."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.brute import brute
from oracles.engines import laid_out
from oracles.oracle import Joint
from oracles.varied import PROGRAMS
from programs.registry import HIDDEN
from torch import Tensor, tensor

from em_pyro import EM
from em_pyro.e_step.chains import paths
from em_pyro.posterior.posterior import Posterior, posterior

TOLERANCE = {"mixed_precision": 1e-6}
"""Where the program itself rounds to float32, so does brute force."""

PLAIN = [name for name in PROGRAMS if name not in (*HIDDEN, "nested_counts")]


def entropy(joint: Joint, law: Posterior) -> float:
    """Sum `-p log p` over the assignments of what reaches an observation, row by row where rows have weights."""
    kept = [bool(living) for latent in joint.latents for living in _living(latent.name, latent.shape, law).flatten()]
    _, laws = joint._law
    found = [_entropy(joint, laws[0], [k and u == 0 for k, u in zip(kept, joint._unit, strict=True)])]
    for n, weight in enumerate(joint.scale.reshape(-1).tolist()):
        inside = [k and u in (0, n + 1) for k, u in zip(kept, joint._unit, strict=True)]
        found.append(weight * (_entropy(joint, laws[n + 1], inside) - found[0]))
    return sum(found)


def _living(name: str, shape: torch.Size, law: Posterior) -> Tensor:
    """Which entries of a latent reach an observation, where there are masks."""
    name = name.removesuffix("_unobserved")
    alive = law.engine.alive.get(name)
    plates = law.engine.program.latents[name].plates
    living = torch.ones(()) if alive is None else alive.align(plates)
    return living.expand([law.engine.program.plates[p] for p in plates]).reshape(shape)


def _entropy(joint: Joint, law: Tensor, entries: list[bool]) -> float:
    if not any(entries):
        return 0.0
    _, line = joint.digits[:, torch.tensor(entries, dtype=torch.bool)].unique(dim=0, return_inverse=True)
    chance = torch.zeros(len(law)).double().index_add(0, line, law)
    return float(-torch.special.xlogy(chance, chance).sum())


@pytest.mark.parametrize("name", PLAIN)
def test_brute_force(name: str) -> None:
    """Over all programs: coupled latents, chains, masks, labels, rows with weights."""
    built = laid_out(name)
    law = posterior(built.compiled, built.here)
    close(law.entropy, entropy(brute(name), law), TOLERANCE.get(name, 1e-10))


TABLE = tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
START = tensor([0.4, 0.6], dtype=torch.float64)


def hidden(y: Tensor, seen: Tensor) -> None:
    """Hide the states of sequences in a site."""
    loc = pyro.param("loc", tensor([-0.4, 0.9]))
    with pyro.plate("sequences", len(y)):
        law = dist.DiscreteHMM(START.log(), TABLE.log(), dist.Normal(loc, 1.0).mask(seen.unsqueeze(-1)))
        pyro.sample("y", law, obs=y)


def steps(y: Tensor, seen: Tensor) -> None:
    """The same as a loop."""
    loc = pyro.param("loc", tensor([-0.4, 0.9]))
    z = None
    with pyro.plate("sequences", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            with pyro.poutine.mask(mask=seen[:, t]):
                z = pyro.sample(f"z_{t}", dist.Categorical(START @ TABLE if z is None else TABLE[z]))
                pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[:, t])


def dense(y: Tensor) -> float:
    """Sum over all paths of one sequence."""
    paths = torch.cartesian_prod(*(torch.arange(2),) * len(y))
    logs = (START @ TABLE).log()[paths[:, 0]] + TABLE.log()[paths[:, :-1], paths[:, 1:]].sum(1)
    chance = (logs + dist.Normal(tensor([-0.4, 0.9])[paths], 1.0).log_prob(y).sum(1)).softmax(0)
    return float(-torch.special.xlogy(chance, chance).sum())


@pytest.mark.parametrize("model", [hidden, steps])
def test_chains(model: object) -> None:
    """Steps past the end of a sequence are none, in a loop and in a site."""
    y, lengths = torch.linspace(-2.0, 2.0, 27).sin().reshape(3, 9), torch.tensor([9, 4, 7])
    law = EM(model).posterior(y, torch.arange(9) < lengths[:, None])  # type: ignore[arg-type]
    close(law.entropy, sum(dense(row[:n]) for row, n in zip(y, lengths, strict=True)))


def test_blocks_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps are taken at a time."""
    law = EM(steps).posterior(torch.zeros(3, 9), torch.ones(3, 9, dtype=torch.bool))
    want = 3 * dense(torch.zeros(9))
    for at_once in (1, 30, paths.AT_ONCE):
        monkeypatch.setattr(paths, "AT_ONCE", at_once)
        close(EM(steps).posterior(torch.zeros(3, 9), torch.ones(3, 9, dtype=torch.bool)).entropy, want)
    close(law.entropy, want)


def test_rows_done_again() -> None:
    """Where a scaled recursion is not enough, and the row is done in log space, its entropy is there all the same."""

    def model(y: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 50.0]))
        z = torch.tensor(0)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Categorical(torch.eye(2)[z] if t else tensor([0.5, 0.5])))
            pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[t])

    y = torch.cat([torch.full((5,), 0.0), torch.full((5,), 50.0)])
    close(EM(model).posterior(y).entropy, math.log(2.0))


def test_nothing_is_uncertain() -> None:
    """No latent, or one of a single state, has none; and it is never below zero."""

    def model(x: Tensor, K: int) -> None:
        loc = pyro.param("loc", torch.linspace(0.0, 1e3, K))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x = torch.cat([torch.zeros(500), torch.full((500,), 1e3)])
    assert EM(model).posterior(x, 1).entropy == 0.0
    assert 0.0 <= EM(model).posterior(x, 2).entropy < 1e-12


def test_gaussian_latents_are_integrated_out() -> None:
    """The entropy is that of the classes."""

    def model(x: Tensor) -> None:
        loading = pyro.param("loading", tensor([0.5, 2.0]))
        with pyro.plate("rows", len(x)):
            kind = pyro.sample("kind", dist.Categorical(tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * loading[kind], 0.5), obs=x)

    x = torch.linspace(-2.0, 2.0, 6)
    law = EM(model).posterior(x)
    share = law.marginal("kind")
    close(law.entropy, float(-torch.special.xlogy(share, share).sum()))
