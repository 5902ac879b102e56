"""States of all latents together, the most probable or drawn, as shares of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...e_step.chains.chain import Chain
from ...e_step.engine import Engine
from ...e_step.shares import Shares
from ...e_step.whole import compiled_factors, log_factors
from ...errors import PlanError
from ...posterior.inside import Inside
from ...posterior.joint import Joint
from ...program.named import Named
from ...program.unroll import FROM
from ...reading.bound import Bound
from ..starting.starts import weights_of


@dataclass(frozen=True)
class Assigned:
    """Every latent in one state.

    Attributes:
        states: indices by latent, of its plates; of a site with states inside, of its plates and of all steps, the
            state before the first one included.
        shares: what statistics are taken under.
        log_joint: of the data and these states together, row weights counted.
        empty: states of latents of rows in which no row is.
    """

    states: Mapping[str, Tensor] = field(repr=False)
    shares: Shares = field(repr=False)
    log_joint: float
    empty: tuple[str, ...]

    def same(self, other: Assigned | None) -> bool:
        """Whether no latent is in another state."""
        return other is not None and all(torch.equal(one, other.states[name]) for name, one in self.states.items())


def check_assignable(engine: Engine) -> None:
    """Refuse a program whose latents have no states to be in.

    Raises:
        PlanError: naming the latent or the site.
    """
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
        weights |= _hidden(cast(Chain, engine.inner[site]), path, weights[site])
    return Assigned(states, Shares(weights), float(log_joint), _empty(engine, {n: states[n] for n in joint.free}))


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


def _empty(engine: Engine, states: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Name the states in which no row is."""
    found = []
    for name, index in states.items():
        if index.dim():
            counts = torch.bincount(index.flatten(), minlength=engine.program.latents[name].size)
            found += [f'state {k} of "{name}" has no row' for k in (counts == 0).nonzero().flatten().tolist()]
    return tuple(found)
