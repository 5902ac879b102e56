"""Outputs of a graph that are one function of different data, computed together.

The steps of a chain and the turns of a Python loop repeat the same operations on the same parameters. What belongs to
one output alone is compared with what belongs to another; where only constants differ, these are stacked, and the
operations run once for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from ..records.frozen import frozen
from .graph import Graph, Slot, Step, take
from .trim import freed, renumbered

SEVERAL = 3  # outputs from which on they are worth folding
HELD = 1 << 28  # bytes of constants that may be stacked, which copies them
SHARED = ""


def fold(graph: Graph, names: Sequence[str]) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """Fold the outputs of `names` that are one function.

    Returns:
        The graph, in which the first name of several stands for all, stacked on a new first dimension; and, for each
        such name, all of them.
    """
    if graph.writes or len(names) < SEVERAL:
        return graph, {}
    own, steps = _apart(graph, names)
    found: dict[str, tuple[str, ...]] = {}
    outputs, size, held = dict(graph.outputs), graph.size, 0
    for members in _repeated(graph, own):
        if held >= HELD:
            break
        together = _together([own[name] for name in members], graph.outputs[members[0]], size)
        if together is None:
            continue
        held += sum(t.untyped_storage().nbytes() for t in together.args if isinstance(t, Tensor))
        steps.append(together)
        outputs[members[0]] = Slot(size)
        for name in members:
            own[name] = []
            if name != members[0]:
                del outputs[name]
        found[members[0]], size = tuple(members), size + 1
    steps += [step for parts in own.values() for step in parts]
    steps = freed(steps, [end.number for end in outputs.values() if isinstance(end, Slot)])
    return renumbered(Graph(graph.inputs, graph.dtypes, tuple(steps), outputs, size)), found


def _apart(graph: Graph, names: Sequence[str]) -> tuple[dict[str, list[Step]], list[Step]]:
    """Return the steps that only one of the outputs `names` needs, by output, and all others."""
    owner = _owners(graph)
    own: dict[str, list[Step]] = {name: [] for name in names}
    rest = list[Step]()
    for step in graph.steps:
        keeper = _owner_of(step, owner)
        (own[keeper] if keeper in own else rest).append(step)
    return own, rest


def _repeated(graph: Graph, own: Mapping[str, list[Step]]) -> list[list[str]]:
    """Group the outputs whose own steps are the same operations, where there are enough of a kind."""
    groups: dict[Any, list[str]] = {}
    for name, steps in own.items():
        end = graph.outputs[name]
        if isinstance(end, Slot) and steps and all(step.outputs for step in steps):
            groups.setdefault(_signature(steps, end), []).append(name)
    return [members for members in groups.values() if len(members) >= SEVERAL]


def _owners(graph: Graph) -> dict[int, str]:
    """Return the output that alone needs a value, or `SHARED`."""
    owner: dict[int, str] = {}

    def claim(number: int, name: str) -> None:
        owner[number] = name if owner.setdefault(number, name) == name else SHARED

    for name, end in graph.outputs.items():
        if isinstance(end, Slot):
            claim(end.number, name)
    for step in reversed(graph.steps):
        name = _owner_of(step, owner)
        for number in step.inputs if step.outputs else ():
            claim(number, name)
    return owner


def _owner_of(step: Step, owner: Mapping[int, str]) -> str:
    """Return the output that needs a step's results; a check has none, and goes with what it checks."""
    values = [n for n in step.outputs if n is not None] if step.outputs else step.inputs
    names = {owner.get(n, SHARED) for n in values} - ({SHARED} if not step.outputs else set())
    return names.pop() if len(names) == 1 else SHARED


def _signature(steps: Sequence[Step], end: Slot) -> Any:
    """Return a key that is equal for outputs whose own steps differ by constants alone."""
    local: dict[int, int] = {}
    parts: list[Any] = []
    for step in steps:
        arguments = _alike((step.args, *step.kwargs.values()), local)
        parts.append((step.op, step.differentiable, *step.kwargs, arguments))
        for position, number in enumerate(step.outputs):
            parts.append(number is None)
            if number is not None:
                local[number] = len(parts) + position
    return *parts, local[end.number]


def _alike(leaf: Any, local: Mapping[int, int]) -> Any:
    """Return a key that is equal for arguments that differ by constants alone."""
    if isinstance(leaf, (list, tuple)):
        return tuple(_alike(part, local) for part in leaf)
    if isinstance(leaf, Slot):
        return ("own", local[leaf.number]) if leaf.number in local else ("shared", leaf.number)
    if isinstance(leaf, Tensor):
        return "constant", leaf.dtype, leaf.device, tuple(leaf.shape), leaf.requires_grad
    return type(leaf), str(leaf)


@frozen
class Template:
    """The operations of one output, to be run for several at once.

    Attributes:
        steps: the steps; values that all outputs use come first among their slots, then constants, then results.
        dims: for each of the first two, 0 if it differs from output to output, else None.
        end: slot of the result.
        size: number of slots.
    """

    steps: tuple[Step, ...] = field(repr=False)
    dims: tuple[int | None, ...]
    end: int
    size: int

    def __call__(self, *values: Tensor) -> Tensor:
        """Take the values that all use, then the constants; return all results, stacked."""
        return torch.func.vmap(self._one, self.dims)(*values)

    def _one(self, *values: Tensor) -> Tensor:
        there: list[Tensor | None] = [*values, *[None] * (self.size - len(values))]
        for step in self.steps:
            take(step, there)
        result = there[self.end]
        assert result is not None
        return result


def _template(steps: Sequence[Step], end: int, shared: Sequence[int], stacked: Sequence[bool]) -> Template:
    """Return the steps of one output with slots of their own, constants among them."""
    order = {number: k for k, number in enumerate(shared)}
    seen, size = len(shared), len(shared) + len(stacked)
    own = list[Step]()

    def moved(leaf: Any) -> Any:
        nonlocal seen
        if isinstance(leaf, Slot):
            return Slot(order[leaf.number])
        if isinstance(leaf, Tensor):
            seen += 1
            return Slot(seen - 1)
        return leaf

    for step in steps:
        step = step.changed(moved)
        for number in step.outputs:
            if number is not None:
                order[number], size = size, size + 1
        outputs = tuple(None if n is None else order[n] for n in step.outputs)
        nested = any(isinstance(a, (list, tuple)) for a in (*step.args, *step.kwargs.values()))
        own.append(replace(step, outputs=outputs, nested=nested, last=()))
    dims = (*(None for _ in shared), *(0 if apart else None for apart in stacked))
    return Template(tuple(own), dims, order[end], size)


def _together(own: Sequence[Sequence[Step]], end: Any, slot: int) -> Step | None:
    """Return one step for the own steps of several outputs; None where an operation cannot be mapped over a stack."""
    leaves = [[leaf for step in steps for leaf in step.leaves] for steps in own]
    columns = [column for column in zip(*leaves, strict=True) if isinstance(column[0], Tensor)]
    stacked = tuple(any(part is not column[0] for part in column) for column in columns)
    if not any(stacked):
        return None
    constants = [torch.stack(column) if apart else column[0] for column, apart in zip(columns, stacked, strict=True)]
    made = {n for step in own[0] for n in step.outputs}
    shared = tuple(dict.fromkeys(n for step in own[0] for n in step.inputs if n not in made))
    template = _template(own[0], end.number, shared, stacked)
    args = (*(Slot(n) for n in shared), *constants)
    return Step(template, args, {}, (slot,), nested=False)
