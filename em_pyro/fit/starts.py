"""Where a fit starts, by one rule for every program.

Start 0 is what `pyro.param` returns. A random start redraws the parameters whose initialiser is a callable; a program
that has none draws its latents instead (k-means++ on the sufficient statistics of what they own), gives the drawn
states weight 0.9 and takes one M-step. The rest is shared by all states in proportion to their rows: shared equally it
would swamp a small group, which would then never be found. Near-uniform responsibilities are never used: they are the
saddle. A site with a prior starts from a draw of it, and goes where the M-step leads, if there is one. Start `i` of
seed `s` is the same whatever the number of starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from ..e_step.chains.hmm import Hmm
from ..e_step.chains.markov import Markov
from ..e_step.engine import Engine, Expectation
from ..e_step.sites.site_factor import Term
from ..errors import ParameterError
from ..m_step.maximise import constrained, maximise, unconstrained
from ..m_step.plan import Plan
from ..m_step.pooling import PriorUnbounded
from ..program.devices import visiting
from ..program.named import Named, Params, align
from ..program.program import quiet
from ..program.store import check_value
from ..program.unroll import STATE, TIME

CERTAIN = 0.9  # weight of the drawn state, before all share the rest
JITTER = 0.5  # of parameters that torch maximises, in unconstrained space
SEEDING_ROWS = 20_000  # rows among which k-means++ picks


def given_start(engine: Engine, values: Params, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace some of `values` by those that the user gave.

    Raises:
        ParameterError: an unknown name, a wrong shape, or a value outside its constraint.
    """
    new = dict(values)
    for name, value in start.items():
        parameter = engine.program.parameters.get(name)
        if parameter is None:
            raise ParameterError(
                f'starts: expected names among {sorted(engine.program.parameters)}, got "{name}". '
                f"Use those of EM.params."
            )
        value = torch.as_tensor(value).detach()
        check_value(parameter, value, "its start")
        new[name] = value.to(parameter.initial.device).double()
    return new


def prior_start(engine: Engine, plan: Plan, values: Params, seed: int, index: int = 0) -> dict[str, Tensor]:
    """Start 0: parameters as they are, sites with a prior from drawn latents (a draw from the prior breaks no ties)."""
    sites = [name for name, p in engine.program.parameters.items() if p.kind == "prior"]
    if not sites:
        return dict(values)
    drawn = _from_latents(engine, plan, _from_priors(engine, values, seed, index), _generator(seed, index))
    return dict(values) | {name: drawn[name] for name in sites}


def random_start(engine: Engine, plan: Plan, values: Params, seed: int, index: int) -> dict[str, Tensor]:
    """Start `index` of `seed`."""
    generator = _generator(seed, index)
    parameters = engine.program.parameters
    movable = [n for n, p in parameters.items() if p.random is not None and plan[n].how != "fixed"]
    if movable:
        new = dict(values)
        with quiet():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            for name in movable:
                draw = parameters[name].random
                assert draw is not None
                with visiting():
                    new[name] = torch.as_tensor(draw()).detach().double()
        return prior_start(engine, plan, new, seed, index)
    jittered = _from_priors(engine, values, seed, index)
    for name in plan.torch:
        if parameters[name].kind != "prior":
            point = unconstrained(engine, name, values[name])
            noise = torch.randn(point.shape, generator=generator, dtype=torch.float64).to(point)
            jittered[name] = constrained(engine, name, point + JITTER * noise)
    return _from_latents(engine, plan, jittered, generator)


def _from_priors(engine: Engine, values: Params, seed: int, index: int) -> dict[str, Tensor]:
    """Replace the sites with a prior by a seeded draw of it, in their order: one may depend on those before it."""
    new, generator = dict(values), _generator(seed, index, stream=1)
    sites = [name for name, p in engine.program.parameters.items() if p.kind == "prior"]
    with quiet(), torch.no_grad():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for name in sites:
            known = engine.priors[name].fn
            fn = engine.program.run(new)[name].fn if known is None else known
            new[name] = fn.sample().double().reshape(new[name].shape)
    return new


def _generator(seed: int, index: int, stream: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(2**40 * stream + 1_000_003 * seed + index)


def _from_latents(engine: Engine, plan: Plan, values: Params, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw states for all latents and maximise given them."""
    if not engine.program.latents and not engine.hmms:
        return dict(values)
    states, rows = _draw_states(engine, generator)
    shares = {name: _share(engine, name, index, rows[name]) for name, index in states.items()}
    found = _expectation(engine, shares, generator)
    try:
        return maximise(engine, plan, found, values)
    except PriorUnbounded:
        return dict(values)  # the loop names it, if it is still so when the latents are not drawn but weighed


def _share(engine: Engine, name: str, index: Tensor, rows: Tensor) -> Named:
    """Weight 0.9 on the drawn state, the rest on all by their rows, shape `(states,)`; named (latent, plates)."""
    latent = engine.program.latents[name]
    other = (1 - CERTAIN) * (rows / rows.sum()).reshape((-1,) + (1,) * index.dim())
    share = other.expand((latent.size, *index.shape)).clone()
    share.scatter_add_(0, index.unsqueeze(0), torch.full((1, *index.shape), CERTAIN, dtype=torch.float64))
    names = (name, *latent.plates)
    keep = [i for i, n in enumerate(names) if share.shape[i] > 1]
    return Named(
        share[tuple(slice(None) if i in keep else 0 for i in range(len(names)))], tuple(names[i] for i in keep)
    )


def _expectation(engine: Engine, shares: Mapping[str, Named], generator: torch.Generator) -> Expectation:
    """Expected statistics under independent latents with the given shares."""
    statistics: dict[str, Tensor] = {}
    shares_of: dict[str, Tensor] = {}
    for name, factor in engine.factors.items():
        weight = torch.ones((), dtype=torch.float64)
        used = [n for n in factor.names if n in engine.program.latents]
        every = tuple(n for n in engine.sizes if n in factor.names or n in factor.plates and engine.sizes[n] > 1)
        for latent in used:
            weight = weight * shares[latent].align(every)
        for part in (factor.scale, factor.alive):
            if part is not None:
                weight = weight * part.align(every)
        weight = weight.expand([engine.sizes[n] for n in every])
        drop = tuple(i for i, n in enumerate(every) if n not in factor.names)
        weight = weight.sum(drop) if drop else weight
        weight = align(weight, [n for n in every if n in factor.names], factor.names)
        shares_of[name] = weight
    inside: dict[str, Tensor] = {}
    for unit in engine.units:
        if isinstance(unit, Hmm):
            inside |= unit.from_states(_hidden_states(unit, generator), CERTAIN)
            continue
        for group in unit.stacks if isinstance(unit, Markov) else (unit,):
            weighed = [shares_of[name] for name in group.members]
            statistics |= group.statistics(weighed, group.features())
    weights = {name: shares_of[name] for name in engine.replayed}
    for name, found in inside.items():
        (weights if name in engine.inside else statistics)[name] = found
    zero = torch.zeros((), dtype=torch.float64)
    return Expectation(zero, zero, statistics, weights)


def _hidden_states(hmm: Hmm, generator: torch.Generator) -> Tensor:
    """States of a DiscreteHMM by k-means++ on its observations, shape (T, rows)."""
    term, states = hmm.emission, hmm.sizes[hmm.name + STATE]
    every = (hmm.name + TIME, *hmm.names)
    shape = [hmm.sizes[n] for n in every]
    rows = None
    if isinstance(term, Term):
        features, have = term.features(), (*term.layout.batch, *term.layout.columns)
        flat = features.movedim(-2, -1).reshape((*(term.sizes[n] for n in have), -1))
        flat = align(flat, have, every, 1)
        rows = _standardised(flat.expand((*shape, flat.shape[-1])).reshape(-1, flat.shape[-1]))
    if rows is None:
        drawn = torch.randint(states, (prod(shape),), generator=generator)
    else:
        drawn = _plus_plus(rows, states, generator)
    return drawn.reshape(shape[0], -1)


# ---- states of the latents -------------------------------------------------------------------------------------------


def _draw_states(engine: Engine, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States of every latent: by k-means++ where observed data belong to it, else uniform.

    Latents of one kind (the steps of a chain) are seeded together, so that a state means the same in all of them.

    Returns:
        The states, in the shape of the plates; and by how many rows each state was drawn, shape `(states,)`.
    """
    program = engine.program
    groups: dict[tuple[int, int], list[tuple[str, Tensor]]] = {}
    states: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for name, latent in program.latents.items():
        features = _owned_features(engine, name)
        if features is None:
            shape = tuple(program.plates[p] for p in latent.plates)
            states[name] = torch.randint(latent.size, shape, generator=generator)
            rows[name] = torch.ones(latent.size, dtype=torch.float64)
        else:
            groups.setdefault((latent.size, features.shape[1]), []).append((name, features))
    for (size, _), members in groups.items():
        drawn = _plus_plus(torch.cat([f for _, f in members]), size, generator)
        count = torch.bincount(drawn, minlength=size).double()
        at = 0
        for name, features in members:
            shape = tuple(program.plates[p] for p in program.latents[name].plates)
            states[name] = drawn[at : at + len(features)].reshape(shape)
            rows[name] = count
            at += len(features)
    return states, rows


def _owned_features(engine: Engine, latent: str) -> Tensor | None:
    """Sufficient statistics of what the latent alone explains: shape (rows, features); None if nothing."""
    program, found = engine.program, []
    plates = program.latents[latent].plates
    shape = [program.plates[p] for p in plates]
    for term in engine.terms.values():
        kept = [n for n in term.columns if n not in term.folded]
        if term.role != "observed" or latent not in term.cells or not set(kept) <= set(plates) or not kept:
            continue
        if any(n in program.latents and n != latent for n in term.names):
            continue
        keep = (*term.layout.batch, *term.layout.columns)
        features = term.features()
        flat = features.reshape((*features.shape[:-1], *(term.sizes[n] for n in term.layout.columns)))
        flat = align(flat.movedim(len(term.layout.batch), -1), keep, plates, 1)
        found.append(flat.expand([*shape, flat.shape[-1]]).reshape(-1, flat.shape[-1]))
    if not found:
        return None
    return _standardised(torch.cat(found, -1))


def _standardised(features: Tensor) -> Tensor | None:
    """Features that vary, each with mean zero and deviation one; None if none does."""
    spread = features.std(0) if len(features) > 1 else torch.zeros(features.shape[1], dtype=torch.float64)
    moving = spread > 1e-12 * (1 + features.abs().amax(0))
    if not bool(moving.any()):
        return None
    return (features[:, moving] - features[:, moving].mean(0)) / spread[moving]


def _plus_plus(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Assign every row to the nearest of `size` seeds, each drawn by its squared distance to those before it.

    References: Arthur & Vassilvitskii (2007), k-means++.
    """
    pool = rows
    if len(rows) > SEEDING_ROWS:
        pool = rows[torch.randint(len(rows), (SEEDING_ROWS,), generator=generator).to(rows.device)]
    first = int(torch.randint(len(pool), (), generator=generator))
    centres = [pool[first]]
    distance = (pool - centres[0]).square().sum(-1)
    for _ in range(size - 1):
        cumulative = distance.cumsum(0)
        if float(cumulative[-1]) <= 0:
            pick = int(torch.randint(len(pool), (), generator=generator))
        else:
            target = torch.rand((), generator=generator, dtype=torch.float64).to(cumulative) * cumulative[-1]
            pick = min(int(torch.searchsorted(cumulative, target)), len(pool) - 1)
        centres.append(pool[pick])
        distance = torch.minimum(distance, (pool - pool[pick]).square().sum(-1))
    stacked = torch.stack(centres)
    cross = rows @ stacked.mT
    return (stacked.square().sum(-1) - 2 * cross).argmin(-1)
