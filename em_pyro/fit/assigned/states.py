"""States of all latents together, the most probable or drawn, as shares of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...e_step.shares import SOFT, Shares
from ...e_step.whole import compiled_factors, log_factors
from ...errors import PlanError
from ...posterior.inside import Inside
from ...posterior.joint import Joint
from ...program.named import Batch, Named
from ...program.unroll import FROM
from ...reading.bound import Bound
from ..problem import Problem
from ..starting.starts import weights_of

if TYPE_CHECKING:
    from ...e_step.chains.chain import Chain


class Assigned(NamedTuple):
    """Rows whose latents are in one state each.

    Attributes:
        shares: what statistics are taken under; their evidence is the log-density of the data and these states
            together, row weights counted.
        seal: a digest of the states.
        counts: of latents of rows, how many rows are in each state.
    """

    shares: Shares
    seal: bytes
    counts: Mapping[str, Tensor]


class Everywhere(NamedTuple):
    """All rows in states, wherever they lie.

    Attributes:
        found: statistics under these states; the log-density of data and states stands for log evidence.
        seals: of the states, by all who hold rows.
        empty: states of latents of rows in which no row is, in words.
    """

    found: Expectation
    seals: tuple[bytes, ...]
    empty: tuple[str, ...]


def assigned_everywhere(problem: Problem, here: Batch, generator: torch.Generator | None = None) -> Everywhere:
    """Put the latents of all rows into the states that are most probable, or into some drawn by `generator`."""
    bound, seen = problem.bind(here), list[Assigned]()

    def shares(engine: Engine) -> Shares:
        one = assigned(engine, bound, generator)
        seen.append(one._replace(shares=SOFT))
        return one.shares

    found, seals, total = problem.given(bound, shares), list[bytes](), dict[str, Tensor]()
    for one in (one for held in problem.rows.gathered(seen) for one in held):
        seals.append(one.seal)
        for name, counts in one.counts.items():
            total[name] = counts + total.get(name, 0)
    empty = [
        f'state {k} of "{name}" has no row' for name, n in total.items() for k in (n == 0).nonzero().flatten().tolist()
    ]
    return Everywhere(found, tuple(seals), tuple(empty))


def check_assignable(problem: Problem) -> None:
    """Refuse a program whose latents have no states to be in, and one of which an M-step is a step alone.

    Raises:
        PlanError: naming the latent or the site.
    """
    engine = problem.engine
    for step in problem.plan.steps:
        raise PlanError(
            f'Site "{next(iter(step.sites))}": expected statistics that add up over rows, got slopes and curvatures of '
            f'a link, which go with e_step="soft" where rows come in batches or from several processes.'
        )
    if engine.recognition.latents is not None:
        name = min(engine.program.integrated)
        raise PlanError(
            f'e_step: expected discrete latents, got "{name}", continuous and integrated, which has no state to be in. '
            f'Use "soft", or continuous={{"{name}": "maximise"}}: its values are parameters then.'
        )
    if not engine.program.latents and not engine.inner:
        raise PlanError('e_step: expected a program with discrete latents, got one without. Use "soft".')


@torch.no_grad()
def assigned(engine: Engine, bound: Bound, generator: torch.Generator | None = None) -> Assigned:
    """Put every latent into the state that is most probable jointly, or into one drawn by `generator`.

    Args:
        engine: of all rows.
        bound: the parameters, one start.
        generator: None is the mode.
    """
    joint = Joint(engine, log_factors(engine, bound))
    inside = Inside(engine, bound, joint)
    paths = inside.paths(generator)
    values = {site: density for site, (density, _) in paths.items()}
    if generator is None:
        scores, found = inside.modes()
        chosen = joint.choices({**scores, **values}, largest=True).best()
    else:
        found = inside.draws(1, generator)
        chosen = joint.choices({}, largest=False).draws(1, generator)
    found |= {site: path.unsqueeze(0) for site, (_, path) in paths.items()}
    states = {name: index.squeeze(0) for name, index in {**chosen, **inside.chosen(found, chosen)}.items()}
    weights = weights_of(engine, {name: _one_hot(engine, name, states[name]) for name in engine.program.latents})
    values = {**compiled_factors(engine, bound), **engine.replays(engine.moved(bound)), **values}
    log_joint = sum(_total(weights[name], values[name]) for name in engine.factors)
    for site, (_, path) in paths.items():
        weights |= _hidden(cast("Chain", engine.inner[site]), path, weights[site])
    counts = {name: _counts(engine, name, states[name]) for name in joint.free if states[name].dim()}
    return Assigned(Shares(weights, float(log_joint)), _seal(states), counts)


def _hidden(chain: Chain, path: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Shares of hidden states on one path of every row, weights of rows counted, and of those that each step leaves."""
    every = one_hot(path, chain.states).double().movedim(-2, 0).unsqueeze(0)  # (1, 1 + T) + outside + (K,)
    return {chain.name: every[:, 1:] * weight.unsqueeze(1).unsqueeze(-1), chain.name + FROM: every[:, :-1]}


def _total(weight: Tensor, value: Named) -> Tensor:
    """Sum of the log-densities that have weight; what is impossible and has none counts nothing."""
    weight = weight.squeeze(0)
    return torch.where(weight > 0, weight * value.tensor, 0.0).sum()


def _one_hot(engine: Engine, name: str, index: Tensor) -> Named:
    """One for the state that every row is in; named (latent, plates), of more than one entry."""
    latent = engine.program.latents[name]
    share = torch.zeros((latent.size, *index.shape), dtype=torch.float64, device=index.device)
    share.scatter_(0, index.unsqueeze(0), 1.0)
    names = (name, *latent.plates)
    keep = [i for i in range(len(names)) if share.shape[i] > 1]
    cut = tuple(slice(None) if i in keep else 0 for i in range(len(names)))
    return Named(share[cut], tuple(names[i] for i in keep))


def _counts(engine: Engine, name: str, index: Tensor) -> Tensor:
    """How many rows are in each state of a latent."""
    return torch.bincount(index.flatten(), minlength=engine.program.latents[name].size)


def _seal(states: Mapping[str, Tensor]) -> bytes:
    """Digest of all states: equal where no latent is in another one."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(states):
        digest.update(states[name].contiguous().cpu().numpy().data)
    return digest.digest()
