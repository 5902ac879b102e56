"""Other labels for the components of a latent: every axis of a parameter that the latent indexes is permuted.

Which axes these are is seen by what the densities do. At a random point one slice of an axis is moved: an axis belongs
to a latent where the density of a site changes in one of its states alone (or, at the latent's own site, in all others
by what makes probabilities sum to one). Latents that share an axis are permuted together, as the steps of a chain are.
Whether that is a symmetry of the program is not taken for granted: the objective must be what it was, at the fitted
values and at a random point.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError
from ..families.charts import domain_of
from ..fit.problem import Problem
from ..program.devices import beside
from ..program.named import Named, Params, batched
from ..program.store import values_now, write
from ..program.unroll import FROM, INITIAL, STATE, TO, TRANSITION
from ..records.frozen import frozen

Axis = tuple[str, int]
"""A parameter, and one of its dimensions."""

MOVED = 0.9  # times its size: where there is no other point to take a slice from
EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a log-density, relative to 1 + its size
DOUBTFUL = 5  # axes of which it is tried out whether they belong to a latent of two states


@frozen
class Found:
    """What a latent indexes.

    Attributes:
        latents: it, and those that share an axis with it: dimensions of densities.
        axes: of the parameters.
        doubtful: those of them that may be axes of something else with as many entries.
    """

    latents: frozenset[str]
    axes: tuple[Axis, ...]
    doubtful: tuple[Axis, ...] = field(default=())


def reordered(problem: Problem, params: Params, site: str, by: Any) -> tuple[dict[str, Tensor], str]:
    """Return the parameters with the components of a latent in another order, and what was done, in words.

    The param store follows, if the parameters are what stands there.

    Args:
        problem: the program and its plan.
        params: fitted values.
        site: the latent.
        by: a permutation of the states (the old place of each new one), or the name of a parameter by whose values,
            ascending, they are put in order: by the first entry of each component, ties in the order they have.

    Raises:
        ParameterError: no such latent or parameter, no permutation, or states that cannot be exchanged.
    """
    with beside(problem.program.device):
        new, order = _reordered(problem, params, site, by)
        _follow(problem, params, new)
    how = f' by "{by}"' if isinstance(by, str) else ""
    return new, f'components of "{site}" put in order{how}: they were {", ".join(map(str, order))}'


def _reordered(problem: Problem, params: Params, site: str, by: Any) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Permute the axes that the latent indexes, certain ones first, by the first set that leaves all densities."""
    look = _Look(problem)
    dims, size = _dims_of(problem, site)
    narrow, wide = look.indexed(dims, size)
    if not narrow.axes:
        raise ParameterError(
            f'Fit.reordered: expected a parameter with an entry for each state of "{site}", got none: its states are '
            f"told apart by constants of the model. Leave them in their order."
        )
    order = _order(params, site, size, by, narrow.axes)
    for latents, axes in dict.fromkeys((*_tried(narrow), *_tried(wide))):
        new = permuted(params, axes, order)
        if not look.differing(latents, axes, order) and look.as_high(params, new):
            return new, order
    names = ", ".join(sorted({f'"{name}"' for name, _ in narrow.axes}))
    where = look.differing(narrow.latents, narrow.axes, order) or "the objective"
    raise ParameterError(
        f'Fit.reordered: expected states of "{site}" that can change places, got others: {where} is not what it was '
        f"with {names} permuted. A constant, a label, a prior or a constraint tells them apart, or another latent."
    )


def permuted(params: Params, axes: Collection[Axis], order: Sequence[int]) -> dict[str, Tensor]:
    """Return the parameters with some of their axes in another order."""
    new = dict(params)
    for name, axis in axes:
        new[name] = new[name].index_select(axis, torch.tensor(order, device=new[name].device))
    return new


def _tried(found: Found) -> Iterator[tuple[frozenset[str], tuple[Axis, ...]]]:
    """Yield the latents and axes to permute: all axes first, then without some of those that are in doubt."""
    doubtful = found.doubtful if len(found.doubtful) <= DOUBTFUL else ()
    for without in chain.from_iterable(combinations(doubtful, k) for k in range(len(doubtful) + 1)):
        if len(without) < len(found.axes):
            yield found.latents, tuple(axis for axis in found.axes if axis not in without)


def _dims_of(problem: Problem, site: str) -> tuple[frozenset[str], int]:
    """Return the dimensions of densities that a latent has, and how many states.

    Raises:
        ParameterError: there is no such latent.
    """
    engine = problem.engine.full
    latents = problem.program.latents
    if site in latents:
        return frozenset({site}), latents[site].size
    if site in engine.inner:
        return frozenset({site + FROM, site + TO, site + STATE}), engine.sizes[site + STATE]
    steps = frozenset(name for name in latents if name.rpartition("_")[0] == site and name.rpartition("_")[2].isdigit())
    if len({latents[name].size for name in steps}) == 1:  # those of a loop
        return steps, next(latents[name].size for name in steps)
    names = sorted({*latents, *engine.inner})
    raise ParameterError(f'Fit.reordered: expected one of the discrete latents {names}, got "{site}".')


def _order(params: Params, site: str, size: int, by: Any, axes: Sequence[Axis]) -> tuple[int, ...]:
    """Return the order that is asked for.

    Raises:
        ParameterError: it is no permutation, or no parameter that the latent indexes once.
    """
    if isinstance(by, str):
        own = [axis for name, axis in axes if name == by]
        if len(own) != 1:
            names = sorted({name for name, _ in axes if sum(name == other for other, _ in axes) == 1})
            raise ParameterError(
                f'Fit.reordered: expected by to be a permutation or one of the parameters {names}, which "{site}" '
                f'indexes once, got "{by}".'
            )
        values = params[by].detach().movedim(own[0], 0).reshape(size, -1)[:, 0]
        return tuple(int(k) for k in torch.argsort(values, stable=True))
    try:
        order = tuple(int(k) for k in by)
        whole = all(int(k) == k for k in by)
    except (TypeError, ValueError, RuntimeError):
        order, whole = (), False
    if not whole or sorted(order) != list(range(size)):
        raise ParameterError(
            f"Fit.reordered: expected by to be the name of a parameter or a permutation of 0, ..., {size - 1}, got "
            f"{by!r}."
        )
    return order


def _closed(answers: Mapping[Axis, Mapping[str, bool]], dims: frozenset[str], *, widely: bool) -> Found:
    """Take in the axes of these latents, the latents that share one, and so on."""
    latents, axes = set(dims), set[Axis]()
    while new := {axis for axis, found in answers.items() if axis not in axes and latents & found.keys()}:
        axes |= new
        latents |= {d for axis in new for d, sure in answers[axis].items() if sure or widely}
    kept = tuple(axis for axis in answers if axis in axes)
    doubtful = tuple(axis for axis in kept if not any(sure for d, sure in answers[axis].items() if d in latents))
    return Found(frozenset(latents), kept, doubtful)


class _Look:
    """The densities of a program at random points, and what moves them."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.program = problem, problem.engine.full.program
        recognition = problem.engine.full.recognition
        self.points, self.reaches = recognition.points, recognition.reaches
        self.exact = EXACT[self.program.dtype]
        self.first = self.densities(self.points[0])

    def densities(self, values: Params, names: Collection[str] | None = None) -> dict[str, Named]:
        """Return the log-density of every site, or of those of some names."""
        with torch.no_grad():
            run = self.program.run(values)
            return {name: site.log_prob() for name, site in run.items() if names is None or name in names}

    def indexed(self, dims: frozenset[str], size: int) -> tuple[Found, Found]:
        """Find the axes that dimensions of densities index, and the latents that share them surely, or perhaps."""
        answers = {axis: self.answering(axis, size) for axis in self.candidates(size)}
        return _closed(answers, dims, widely=False), _closed(answers, dims, widely=True)

    def candidates(self, size: int) -> Iterator[Axis]:
        """Yield the axes of that many entries, those of matrices and of vectors with an order left out."""
        for name, parameter in self.program.parameters.items():
            shape, domain = tuple(parameter.initial.shape), domain_of(parameter.constraint)
            events = 0 if domain in ("real", "positive", "unit") else parameter.constraint.event_dim
            for axis, length in enumerate(shape):
                last = domain == "simplex" and axis == len(shape) - 1
                if length == size and (axis < len(shape) - events or last):
                    yield name, axis

    def answering(self, of: Axis, size: int) -> dict[str, bool]:
        """Return the dimensions that an axis belongs to, and whether that is sure."""
        name, axis = of
        sites = [site for site in self.first if name in self.reaches.get(site, (name,))]
        moved = self.densities(self.moved(name, axis), sites)
        found: dict[str, bool] = {}
        for site in sites:
            change, names = moved[site].tensor - self.first[site].tensor, self.first[site].names
            for d in names:
                if change.shape[names.index(d)] == size:
                    told = self.told(site, d, change.movedim(names.index(d), 0), self.first[site].tensor)
                    if told is not None:
                        found[d] = found.get(d, False) or told
        found = {d: sure for d, sure in found.items() if d not in self.program.plates}
        return {d: sure for d, sure in found.items() if sure or not any(found.values())}

    def told(self, site: str, d: str, change: Tensor, density: Tensor) -> bool | None:
        """Whether a density has changed in the first state of `d` alone: True if surely, None if not."""
        change = change.reshape(len(change), -1).nan_to_num(0.0, 0.0, 0.0)
        small = self.exact * (1 + float(density.nan_to_num(0.0, 0.0, 0.0).abs().max()))
        if len(change) < 2 or not bool(((change[0] - change[1:]).abs() > small).any()):
            return None
        if not bool((change[1:].abs() > small).any()):
            return True
        own = site == d or d.endswith(TO) and site.endswith(TRANSITION) or d.endswith(FROM) and site.endswith(INITIAL)
        if not own or bool((change[1:] - change[1:2]).abs().max() > small):
            return None
        return len(change) > 2

    def moved(self, name: str, axis: int) -> dict[str, Tensor]:
        """Return the first random point with one slice of an axis moved."""
        value, others = self.points[0][name].clone(), self.points[1:]
        simplex = domain_of(self.program.parameters[name].constraint) == "simplex" and axis == value.dim() - 1
        to = MOVED * value.select(axis, 0) if simplex or not others else others[0][name].select(axis, 0)
        value.select(axis, 0).copy_(to)
        return {**self.points[0], name: value}

    def as_high(self, params: Params, new: Params) -> bool:
        """Whether the objective is what it was."""
        one, other = (self.problem.objective(batched({n: v.double() for n, v in at.items()})) for at in (params, new))
        return abs(one - other) <= self.exact * (1 + abs(one))

    def differing(self, latents: Collection[str], axes: Collection[Axis], order: Sequence[int]) -> str:
        """Name the site whose density at a random point is not that of the states in their new places; or nothing."""
        after, index = self.densities(permuted(self.points[0], axes, order)), torch.tensor(order)
        for name, before in self.first.items():
            expected = before.tensor
            for axis, d in enumerate(before.names):
                if d in latents:
                    expected = expected.index_select(axis, index.to(expected.device))
            now = after[name].align(before.names)
            if name in self.program.parameters:  # a prior, over all entries: which of them have changed places
                expected, now = before.tensor.sum(), now.sum()
            off = torch.where(expected == now, 0.0, expected - now).abs()
            if not bool((off <= self.exact * (1 + expected.abs())).all()):
                return f'the density of site "{name}"'
        return ""


def _follow(problem: Problem, params: Params, new: Params) -> None:
    """Write new values into the param store, and into weights of modules, if the old ones are what stands there."""
    there = values_now(problem.program)
    own = [name for name, parameter in problem.program.parameters.items() if parameter.kind != "prior"]
    close = {name: EXACT.get(params[name].dtype, 0.0) for name in own}
    if all(
        torch.allclose(there[name], params[name], rtol=close[name], atol=close[name], equal_nan=True) for name in own
    ):
        write(problem.program, new)
