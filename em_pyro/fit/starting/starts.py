"""Where a fit starts, by one rule for every program.

Start 0 is what `pyro.param` returns. A random start draws the latents (`seeding.py`), gives the drawn states weight 0.9
and takes one M-step. The rest is shared by all states in proportion to their rows: shared equally it would swamp a
small group, which would then never be found. Near-uniform responsibilities are never used: they are the saddle. Where
functions of the user's draw parameters of observed sites, they make every second start. A function that always returns
the same is none of them, nor are those of weights alone, which leave the components as they are. Without latents the
functions draw, or all parameters are moved in unconstrained space. A site with a prior starts from a draw of it, and
goes where the M-step leads, if there is one. Start `i` of seed `s` is the same whatever the number of starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.shares import Shares
from ...errors import ModelError, ParameterError
from ...families.charts import domain_of
from ...m_step.maximise import maximise
from ...m_step.pooling import PriorUnbounded
from ...program.coordinates import constrained, unconstrained
from ...program.data.check import nothing_counts, uncounted
from ...program.devices import draw, seed_generators, seeded
from ...program.named import Named, Params, align, batched, only
from ...program.program import Program, quiet
from ...program.store import check_value, starting_values
from ..problem import Problem
from .initialisers import in_double, redrawn, varying
from .sowing import sown

if TYPE_CHECKING:
    from ...e_step.chains.chain import Chain

CERTAIN = 0.9  # weight of the drawn state, before all share the rest
JITTER = 0.5  # of parameters that torch maximises, in unconstrained space
LARGE = 100.0  # size from which, or below whose inverse, real values have units


def starting_points(
    problem: Problem,
    starts: int | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    seed: int,
    first: Params | None = None,
) -> list[dict[str, Tensor]]:
    """Return the values from which every start begins.

    Args:
        problem: the program and its plan.
        starts: how many (the first of them the user's own values), or values for some parameters by name, or a list of
            such values.
        seed: of what is drawn.
        first: the user's own values, and of sites with a prior those of the last step or fit; None draws those.

    Raises:
        ParameterError: a given start does not fit.
    """
    own, full = own_values(problem), problem.of_all_rows
    first = prior_start(full, own, seed) if first is None else first
    if isinstance(starts, int):
        names = _drawn_by_the_user(full, seed) if starts > 1 else ()
        return [random_start(full, own, seed, i, names) if i else dict(first) for i in range(starts)]
    given = [starts] if isinstance(starts, Mapping) else list(starts)
    for values in given:  # all of them are looked at before anything is drawn
        given_start(problem.program, own, values)
    return [given_start(problem.program, first, values) for values in given]


def own_values(problem: Problem) -> dict[str, Tensor]:
    """Return the user's values, from the param store."""
    parameters = problem.program.parameters
    return {name: in_double(parameters[name], value) for name, value in starting_values(problem.program).items()}


def need_parameters(problem: Problem) -> None:
    """Refuse a program in which nothing is to be fitted, or to nothing.

    Raises:
        ModelError: it has no parameters.
        DataError: no row has a weight, or all is masked.
    """
    if not problem.program.parameters:
        raise ModelError(
            "The model: expected at least one parameter to fit, got none. Declare it with pyro.param, or as a "
            "continuous pyro.sample outside the data plates."
        )
    if problem.rows.whole and (site := uncounted(problem.engine.recognition.runs[0])):  # else it was looked at before
        raise nothing_counts(site)


def given_start(program: Program, values: Params, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace some of `values` by those that the user gave.

    Raises:
        ParameterError: an unknown name, a wrong shape, or a value outside its constraint.
    """
    new = dict(values)
    for name, value in start.items():
        parameter = program.parameters.get(name)
        if parameter is None:
            raise ParameterError(
                f'starts: expected names among {sorted(program.parameters)}, got "{name}". Use those of EM.params.'
            )
        value = given_value(name, value)
        check_value(parameter, value, "its start")
        new[name] = in_double(parameter, value.to(parameter.initial.device))
    return new


def given_value(name: str, value: Any) -> Tensor:
    """Return a starting value that the user gave, in memory of its own.

    Raises:
        ParameterError: it is no tensor, array or number.
    """
    try:
        return torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(
            f'starts: expected a tensor for "{name}", got {value!r} ({error}). Use the values of EM.params.'
        ) from error


def prior_start(problem: Problem, values: Params, seed: int, index: int = 0) -> dict[str, Tensor]:
    """Make start 0: parameters as they are, sites with a prior from drawn latents (a draw of it breaks no ties)."""
    sites = [name for name, p in problem.program.parameters.items() if p.kind == "prior"]
    if not sites:
        return dict(values)
    drawn = _from_latents(problem, _from_priors(problem.engine, values, seed, index), _generator(seed, index))
    return dict(values) | {name: drawn[name] for name in sites}


def random_start(problem: Problem, values: Params, seed: int, index: int, names: Sequence[str]) -> dict[str, Tensor]:
    """Make start `index` of `seed`; every second one of those that draw latents calls the initialisers of `names`."""
    generator = _generator(seed, index)
    if names and (index % 2 or not _has_latents(problem.engine)):
        own = int(seeded(torch.randint, 2**62, (), generator=generator))
        return prior_start(problem, {**values, **redrawn(problem.program, names, own)}, seed, index)
    jittered = _from_priors(problem.engine, values, seed, index)
    for name in _jittered(problem):
        if problem.program.parameters[name].kind != "prior":
            point = unconstrained(problem.program, name, values[name])
            noise = seeded(torch.randn, point.shape, generator=generator, dtype=torch.float64).to(point)
            unit = _unit(point) if domain_of(problem.program.parameters[name].constraint) == "real" else 1.0
            jittered[name] = constrained(problem.program, name, point + JITTER * unit * noise)
    return _from_latents(problem, jittered, generator)


def _jittered(problem: Problem) -> tuple[str, ...]:
    """Parameters that are moved: where states are drawn, those that do not follow from them."""
    if not _has_latents(problem.engine):
        return tuple(problem.plan.free)
    latents = problem.engine.recognition.latents
    loadings = frozenset[str]() if latents is None else latents.loadings
    return tuple(name for name in problem.plan.free if name in problem.plan.torch or name in loadings)


def _unit(point: Tensor) -> float:
    """Return what real values are moved in units of: their size, where it is not that of a logit or of a weight."""
    size = float(point.abs().nan_to_num(0.0, posinf=0.0).amax()) if point.numel() else 0.0
    return size if size > LARGE or 0.0 < size < 1 / LARGE else 1.0


def _drawn_by_the_user(problem: Problem, seed: int) -> tuple[str, ...]:
    """Name the parameters that the user's own functions draw; none if there are latents and only these are moved."""
    engine, parameters = problem.engine, problem.program.parameters
    names = varying(problem.program, [n for n in parameters if problem.plan[n].how != "fixed"], seed)
    reaches = engine.recognition.reaches
    observed = frozenset[str]().union(*(r for site, r in reaches.items() if site not in problem.program.latents))
    return names if observed & set(names) or not _has_latents(engine) else ()


def _has_latents(engine: Engine) -> bool:
    return bool(engine.program.latents or engine.inner)


def _from_priors(engine: Engine, values: Params, seed: int, index: int) -> dict[str, Tensor]:
    """Replace the sites with a prior by a seeded draw of it, in their order: one may depend on those before it."""
    new, generator = dict(values), _generator(seed, index, stream=1)
    sites = [name for name, p in engine.program.parameters.items() if p.kind == "prior"]
    with quiet(), torch.no_grad():
        seed_generators(int(seeded(torch.randint, 2**62, (), generator=generator)))
        for name in sites:
            known = engine.priors[name].fn
            fn = engine.program.run(new)[name].fn if known is None else known
            new[name] = draw(fn).double().reshape(new[name].shape)
    return new


def _generator(seed: int, index: int, stream: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(2**40 * stream + 1_000_003 * seed + index)


def _from_latents(problem: Problem, values: Params, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw states for all latents and maximise given them."""
    engine = problem.engine
    if not _has_latents(engine):
        return dict(values)
    batch = batched(values)
    draw = sown(problem, generator)
    found = problem.given(problem.bind(batch), lambda rows: _given(rows, *draw(rows)))
    try:
        return only(maximise(engine, problem.plan, found, batch))
    except PriorUnbounded:
        return dict(values)  # the loop names it, if it is still so when the latents are not drawn but weighed


def _given(
    engine: Engine, states: Mapping[str, Tensor], rows: Mapping[str, Tensor], hidden: Mapping[str, Tensor]
) -> Shares:
    """Share the rows of an engine out by the states drawn."""
    shares = {name: _share(engine, name, index, rows[name]) for name, index in states.items()}
    return Shares({**weights_of(engine, shares), **_hidden(engine, hidden)})


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


def weights_of(engine: Engine, shares: Mapping[str, Named]) -> dict[str, Tensor]:
    """Return weights of every factor under independent latents with the given shares, (one start) + its dimensions."""
    found: dict[str, Tensor] = {}
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
        found[name] = align(weight, [n for n in every if n in factor.names], factor.names).unsqueeze(0)
    return found


def _hidden(engine: Engine, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of states that are hidden in a site, (one start, steps) + dimensions of its factor + `(K,)`."""
    found: dict[str, Tensor] = {}
    for name, unit in engine.inner.items():
        chain = cast("Chain", unit)
        states = drawn[name]
        other = (1 - CERTAIN) / max(1, chain.states - 1)
        shares = torch.full((*states.shape, chain.states), other, dtype=torch.float64)
        shares.scatter_(-1, states.unsqueeze(-1), CERTAIN if chain.states > 1 else 1.0)
        found[name] = shares.unsqueeze(0)
    return found
