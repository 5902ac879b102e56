"""Runs of a program at several points, made at once: the model runs once, and sees the tensors of one point.

`torch.func.vmap` hides the dimension of the points. What is computed at each is what a run there alone computes,
whatever the model does with shapes, positions and sums, and is compared with such a run at the first. Where the model
asks for a number (a branch, `.item()`), draws, or writes into tensors of its own, `vmap` raises, and there is no such
run: points are gone through one by one then.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import constraints

from ..changes.fingerprint import held
from ..changes.lost import MADE_OF, Key, arguments_of
from ..changes.same import equal, first_difference
from ..named import Params, unexpand
from ..program import Program
from ..site import Site

FEW = 4  # runs from which one for all is faster than they are, the comparison included
ENTRIES = 200_000  # of all arguments in all runs, up to which it is: larger tensors keep torch busy by themselves
SMALL = 100  # entries of an argument in all runs, up to which it is however many there are: the steps of a long loop
DATA = 2_000_000  # numbers that the model is called with, in all states and runs: on its way it may hold as many
PLAIN = frozenset({bool, int, float, complex, str, type(None), torch.Size, torch.dtype, torch.device})
"""Kinds of values that hold no tensors."""
TAKEN_APART = (*MADE_OF, constraints.Constraint, type(pyro_constraints.real))
"""Kinds of objects that hold their parts as attributes."""


class Abreast(NamedTuple):
    """Runs that were made at once.

    Attributes:
        runs: the sites of each.
        moved: arguments that differ between them, by site and place there, points first.
    """

    runs: list[dict[str, Site]]
    moved: dict[Key, Tensor]


class _Closed(Exception):
    """A run holds an object of which nobody knows what is in it."""


def abreast(program: Program, known: Mapping[str, Site], points: Sequence[Params]) -> Abreast | None:
    """Run the program at several points at once; None where that cannot be done, or is not faster.

    Args:
        program: what is run.
        known: its run at the first point alone.
        points: values of all parameters.

    Returns:
        The runs, of which the first is `known`.
    """
    sites, parts = dict[str, Site](), list[Tensor]()

    def read(run: Mapping[str, Site]) -> list[Tensor]:
        sites.update(run)
        parts.extend(_tensors(run))
        return parts

    if (found := _mapped(program, known, points, (), read)) is None:
        return None
    wholes = {id(part): whole for part, whole in zip(parts, found, strict=True)}
    runs = _apart(sites, wholes, len(points))
    if first_difference(known, runs[0]):
        return None
    arguments = [((name, place), part) for name, site in sites.items() for place, part in arguments_of(site.fn)]
    moved = {key: whole for key, part in arguments if (whole := wholes[id(part)]).stride(0)}
    return Abreast([dict(known), *runs[1:]], moved)


def read_abreast(
    program: Program,
    known: Mapping[str, Site],
    points: Sequence[Params],
    states: Sequence[Params],
    read: Callable[[Mapping[str, Site]], Mapping[Key, Tensor]],
) -> dict[Key, Tensor] | None:
    """Return what `read` takes of every run, points first; None where runs cannot be made at once, or not faster.

    Args:
        program: what is run.
        known: its run at the first point alone.
        points: values of all parameters.
        states: values of latents at each of the points; without any, they are enumerated.
        read: takes tensors out of the sites of a run.
    """
    keys = list[Key]()

    def listed(run: Mapping[str, Site]) -> list[Tensor]:
        parts = read(run)
        keys.extend(parts)
        return list(parts.values())

    if (found := _mapped(program, known, points, states, listed)) is None:
        return None
    first, wholes = read(known), dict(zip(keys, found, strict=True))
    same = first.keys() == wholes.keys() and all(equal(first[key], whole[0]) for key, whole in wholes.items())
    return wholes if same else None


def _mapped(
    program: Program,
    known: Mapping[str, Site],
    points: Sequence[Params],
    states: Sequence[Params],
    read: Callable[[Mapping[str, Site]], list[Tensor]],
) -> Sequence[Tensor] | None:
    """Return the tensors that `read` takes of a run, points first; None where there is no such run."""
    if not pays(program, known, len(points)):
        return None
    columns = [_columns(points), _columns(states)]
    moving = [{name: torch.stack(column) for name, column in kind.items() if _differ(column)} for kind in columns]
    if not any(moving):
        return None
    still = [{name: column[0] for name, column in kind.items() if not _differ(column)} for kind in columns]
    still[1] = {name: known[name].value for name in program.integrated} | still[1]  # what stands for them is drawn

    def run(moved: Sequence[Params]) -> tuple[Tensor, ...]:
        values, latents = ({**here, **there} for here, there in zip(still, moved, strict=True))
        return tuple(read(program.run(values, latents)))

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that are gone through in a loop
            return torch.func.vmap(run)(moving)  # type: ignore[no-any-return]
    except Exception:  # whatever it is, runs one by one have it too, or none
        return None


def pays(program: Program, run: Mapping[str, Site], count: int) -> bool:
    """Tell whether so many runs are made at once, if the model allows it: they are worth it, and none leaves a trace.

    A model that notes down what it has computed would keep tensors that live in that run alone.

    Args:
        program: what is run.
        run: one of them, or one like them.
        count: how many.
    """
    return worth(program, run, count) and held(program.model) == program.held


def worth(program: Program, run: Mapping[str, Site], count: int) -> bool:
    """Tell whether so many runs are several, and do not hold too much: what is asked before any is made."""
    if count < FEW or any(parameter.tensor is not None for parameter in program.parameters.values()):
        return False  # the weights of a module are swapped in place
    sizes = [unexpand(part).numel() for site in run.values() for _, part in arguments_of(site.fn)]
    entries, most = sum(sizes), max(ENTRIES, SMALL * len(sizes))
    passed = (*program.args, *program.kwargs.values())
    data = sum(part.numel() for part in passed if isinstance(part, Tensor))
    return count * entries <= most and count * data * max(program.states.values(), default=1) <= DATA


def _columns(points: Sequence[Params]) -> dict[str, list[Tensor]]:
    return {name: [point[name] for point in points] for name in (points[0] if points else ())}


def _differ(column: Sequence[Tensor]) -> bool:
    return any(part is not column[0] for part in column)


# ---- from one run to many --------------------------------------------------------------------------------------------


def _tensors(sites: Mapping[str, Site]) -> list[Tensor]:
    """Collect every tensor that a run holds.

    Raises:
        _Closed: it holds something else, of which nobody knows whether a tensor is in it.
    """
    found, met = dict[int, Tensor](), set[int]()
    stack: list[Any] = [part for site in sites.values() for part in (site.fn, site.value, site.scale, site.mask)]
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif type(value) not in PLAIN and id(value) not in met:
            met.add(id(value))
            stack.extend(_inside(value))
    return list(found.values())


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, TAKEN_APART):
        return iter(vars(value).values())
    if type(value) in (list, tuple):
        return iter(value)
    if isinstance(value, dict):
        return iter(value.values())
    raise _Closed


def _apart(sites: Mapping[str, Site], wholes: Mapping[int, Tensor], count: int) -> list[dict[str, Site]]:
    """Return the runs of which one was made of all: its tensors taken apart, and what they are in made for each."""
    copies = _Copies(count)
    for part, whole in wholes.items():  # what no point enters is expanded, and stays one tensor with its own memory
        copies.known[part] = list(whole.unbind(0)) if whole.stride(0) else [whole[0]] * count
    runs: list[dict[str, Site]] = [{} for _ in range(count)]
    for name, site in sites.items():
        each = zip(*(copies.of(part) for part in (site.fn, site.value, site.scale, site.mask)), strict=True)
        for run, (fn, value, scale, mask) in zip(runs, each, strict=True):
            run[name] = Site(name, site.role, fn, value, site.plates, site.dims, scale, mask)
    return runs


class _Copies:
    """Objects of a run, made for each of the points."""

    def __init__(self, count: int) -> None:
        self.count, self.known = count, dict[int, list[Any]]()

    def of(self, value: Any) -> list[Any]:
        """Return the same object with the tensors of every point in it."""
        if type(value) in PLAIN:
            return [value] * self.count
        if id(value) not in self.known:
            self._make(value)
        return self.known[id(value)]

    def _make(self, value: Any) -> None:
        if type(value) in (list, tuple):
            columns = [self.of(part) for part in value]
            rows = zip(*columns, strict=True) if columns else ((),) * self.count
            self.known[id(value)] = [type(value)(row) for row in rows]
            return
        kind: Any = type(value)
        made = [kind.__new__(kind) for _ in range(self.count)]
        self.known[id(value)] = made  # before what is inside: a transform and its inverse hold one another
        held, into = (value, made) if isinstance(value, dict) else (vars(value), [vars(one) for one in made])
        plain = {key: part for key, part in held.items() if type(part) in PLAIN}
        for one in into:
            one.update(plain)
        for key in held.keys() - plain.keys():
            for one, own in zip(into, self.of(held[key]), strict=True):
                one[key] = own
