"""Starts of a larger program from the fit of a smaller one: a state split in two, for each of its states.

Nothing is known of states here. Axes along which the shapes of the two programs differ, all from `K` to more, are those
of what there is more of. The entries of one are copied; shares, which add up to one, are divided among the copies. So
the larger program has the likelihood of the smaller one where the copies are equal, which is a saddle: copies are moved
apart, and one start is left where it is, from which a fit cannot end lower.

References:
    Ueda, N., Nakano, R., Ghahramani, Z. and Hinton, G. (2000). SMEM algorithm for mixture models. Neural Computation
    12, 2109-2128.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..families.charts import domain_of
from ..fit.problem import Problem
from ..fit.saddle import row_units
from ..fit.starting.initialisers import in_double
from ..fit.starting.starts import own_values
from ..program.coordinates import constrained
from ..program.devices import seeded
from ..program.named import Params, batched
from ..program.site import Parameter
from ..records.frozen import frozen

APART = 0.5  # how far copies are moved apart, in units in which `Q` falls by a nat a row


@frozen
class Growth:
    """What one program has more of than another.

    Attributes:
        before: how many there are in the smaller.
        after: how many in the larger.
        axes: along which dimensions of every parameter that both have.
    """

    before: int
    after: int
    axes: Mapping[str, tuple[int, ...]]


def growth(small: Params, large: Mapping[str, Parameter]) -> Growth | None:
    """Return in what a program is larger than one with the parameters `small`; None if it is not, or in two ways."""
    axes, steps = dict[str, tuple[int, ...]](), set[tuple[int, int]]()
    for name in [name for name in large if name in small]:
        here, there = tuple(small[name].shape), tuple(large[name].initial.shape)
        if len(here) != len(there):
            return None
        pairs = list(zip(here, there, strict=True))
        axes[name] = tuple(i for i, (a, b) in enumerate(pairs) if a != b)
        steps |= {pair for pair in pairs if pair[0] != pair[1]}
    if len(steps) != 1 or (step := next(iter(steps)))[0] >= step[1] or not step[0]:
        return None
    return Growth(*step, axes)


def split_starts(small: Params, large: Problem, seed: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Return starts of `large` from fitted values of a smaller program; none if the one is not the other with more.

    Returns:
        Those that have the likelihood of `small`, if the programs are nested: a state split into equal parts, or zeros
        added to coefficients. And two for each of its states, moved apart by the same disturbance, up and down.
    """
    parameters = {name: large.program.parameters[name] for name in large.plan.free}
    grown = growth(small, parameters)
    if grown is None:
        return [], []
    small = {name: in_double(parameters[name], small[name].detach()) for name in grown.axes}
    nested, apart = [split(small, parameters, grown, _origin(grown, 0))], list[dict[str, Tensor]]()
    if all(domain_of(parameters[name].constraint) == "real" for name, axes in grown.axes.items() if axes):
        nested.append(_padded(small, grown))
    generator = torch.Generator().manual_seed(seed)
    for state in range(grown.before):
        origin = _origin(grown, state)
        middle = _merged(large, split(small, parameters, grown, origin))
        apart += [middle | moved for moved in _apart(large, middle, grown, origin, generator)]
    nested, apart = (
        [_merged(large, start) for start in some if all(_inside(parameters[n], start[n]) for n in grown.axes)]
        for some in (nested, apart)
    )
    return nested, apart


def _inside(parameter: Parameter, value: Tensor) -> bool:
    """Whether a constraint allows a value: copies are none of an order, nor of a triangle."""
    return bool(parameter.constraint.check(value.to(parameter.initial.dtype)).all())


def split(small: Params, parameters: Mapping[str, Parameter], grown: Growth, origin: Tensor) -> dict[str, Tensor]:
    """Copy entries of states along the axes that grow, those of `origin`; shares are divided among the copies."""
    copies = torch.bincount(origin, minlength=grown.before)[origin].double()
    found = {}
    for name, axes in grown.axes.items():
        value, last = small[name], small[name].dim() - 1
        for axis in axes:
            value = value.index_select(axis, origin.to(value.device))
            if axis == last and domain_of(parameters[name].constraint) == "simplex":
                value = value / copies.to(value)
        found[name] = value
    return found


def _padded(small: Params, grown: Growth) -> dict[str, Tensor]:
    """Add zeros: coefficients of another covariate, loadings of another factor."""
    found = {}
    for name, axes in grown.axes.items():
        value = small[name]
        for axis in axes:
            shape = [grown.after - grown.before if i == axis else size for i, size in enumerate(value.shape)]
            value = torch.cat([value, value.new_zeros(shape)], axis)
        found[name] = value
    return found


def _merged(large: Problem, values: Params) -> dict[str, Tensor]:
    """Give the parameters that only the larger program has, and those that it keeps fixed, its own start."""
    return {**own_values(large), **values}


def _origin(grown: Growth, state: int) -> Tensor:
    """Return the state that every state of the larger program is a copy of: `state` first, then those after it."""
    more = (torch.arange(grown.after - grown.before) + state) % grown.before
    return torch.cat([torch.arange(grown.before), more])


def _apart(
    problem: Problem, middle: Params, grown: Growth, origin: Tensor, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Yield the parameters whose copies can be moved apart, moved one way and the other."""
    program = problem.program
    movable = {name: _batch_axes(program.parameters[name], axes) for name, axes in grown.axes.items()}
    points = {
        n: problem.coordinates.points(middle)[n] for n, axes in movable.items() if axes and n in problem.plan.maximised
    }
    if not points:
        return
    with torch.no_grad():
        found = problem.expect(problem.bind(batched(middle)))
    sizes = row_units(problem, middle, found, points, generator)
    steps = {}
    for name, point in points.items():
        noise = seeded(torch.randn, point.shape, generator=generator, dtype=torch.float64).to(point)
        step = torch.zeros_like(point)
        for axis in movable[name]:  # new states one way, and what they are copies of the other
            new = torch.arange(grown.before, grown.after, device=point.device)
            part = noise.index_select(axis, new)
            step = step.index_add(axis, new, part).index_add(axis, origin.to(point.device)[new], -part)
        steps[name] = APART * sizes[name] * step
    for sign in (1, -1):
        moved = {}
        for name, point in points.items():
            value = constrained(program, name, point + sign * steps[name])
            moved[name] = torch.where(torch.isfinite(value), value, middle[name])
        yield moved


def _batch_axes(parameter: Parameter, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Keep the axes along which unconstrained coordinates lie as the values do."""
    if domain_of(parameter.constraint) in ("real", "positive", "unit"):
        return axes
    return tuple(axis for axis in axes if axis < parameter.initial.dim() - parameter.constraint.event_dim)
