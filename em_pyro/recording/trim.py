"""Trim recorded steps: drop what no output needs, merge what computes the same, forget what is used up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, strided

from .graph import Graph, Slot, Step

SMALL = 256  # entries up to which constants are told apart by their values


def needed(steps: Sequence[Step], ends: Sequence[int], inputs: Sequence[int], memory: Sequence[int]) -> list[Step]:
    """Return the steps that the outputs need: those that lead there, write there, or check what leads there.

    Args:
        steps: all steps, in order.
        ends: slots of the outputs.
        inputs: slots of the parameters.
        memory: the storage in which each slot lies.
    """
    wanted, places, kept = set(ends), {memory[n] for n in ends}, list[bool]()
    for step in reversed(steps):
        keep = any(n in wanted for n in step.outputs) or bool(_written_by(step, memory) & places)
        kept.append(keep)
        if keep:
            wanted.update(step.inputs)
            places.update(memory[n] for n in (*step.inputs, *_results(step)))
    found, there = list[Step](), set(inputs)
    for step, keep in zip(steps, reversed(kept), strict=True):
        if keep or (not step.outputs and all(n in there for n in step.inputs)):
            found.append(step)
            there.update(_results(step))
    return found


def merged(steps: Sequence[Step], memory: Sequence[int]) -> tuple[list[Step], dict[int, int]]:
    """Merge steps that compute the same; nothing that lies in memory that is written to takes part.

    Returns:
        The steps left, and the slots that stand for others from now on.
    """
    written = set[int]().union(*(_written_by(step, memory) for step in steps))
    same: dict[int, int] = {}
    first: dict[Any, Step] = {}
    kept = []
    for step in steps:
        if any(n in same for n in step.inputs):
            step = step.changed(lambda leaf: Slot(same.get(leaf.number, leaf.number)) if type(leaf) is Slot else leaf)
        apart = any(memory[n] in written for n in (*step.inputs, *_results(step)))
        if not apart and step.outputs:
            key = (step.op, step.differentiable, *step.kwargs, _hashable((step.args, *step.kwargs.values())))
            other = first.setdefault(key, step)
            if other is not step:
                same.update(zip(_results(step), _results(other), strict=True))
                continue
        kept.append(step)
    return kept, same


def freed(steps: Sequence[Step], ends: Sequence[int]) -> list[Step]:
    """Note at each step which values no later one needs; drop the names of results that nothing needs at all."""
    seen, found = set(ends), []
    for step in reversed(steps):
        outputs = tuple(n if n in seen else None for n in step.outputs)
        last = tuple(n for n in dict.fromkeys(step.inputs) if n not in seen)
        seen.update(step.inputs)
        found.append(replace(step, outputs=outputs, last=last))
    return found[::-1]


def renumbered(graph: Graph) -> Graph:
    """Return the same with as many slots as there are values."""
    order: dict[int, int] = {}
    for n in [*graph.inputs.values(), *(n for step in graph.steps for n in _results(step))]:
        order.setdefault(n, len(order))

    def moved(leaf: Any) -> Any:
        return Slot(order[leaf.number]) if type(leaf) is Slot else leaf

    steps = tuple(
        replace(
            step.changed(moved),
            outputs=tuple(None if n is None else order[n] for n in step.outputs),
            last=tuple(order[n] for n in step.last),
        )
        for step in graph.steps
    )
    inputs = {name: order[n] for name, n in graph.inputs.items()}
    return Graph(inputs, graph.dtypes, steps, {n: moved(o) for n, o in graph.outputs.items()}, len(order))


def constants(steps: Sequence[Step]) -> list[Tensor]:
    """Return the tensors that the steps hold."""
    return [leaf for step in steps for leaf in step.leaves if isinstance(leaf, Tensor)]


def _results(step: Step) -> list[int]:
    return [n for n in step.outputs if n is not None]


def _written_by(step: Step, memory: Sequence[int]) -> set[int]:
    """Return the storages into which a step writes: operators in place return what they have changed."""
    return {memory[n] for n in (_results(step) or step.inputs)} if step.writes else set()


def _hashable(tree: Any) -> Any:
    """Return the arguments as a key."""
    return tuple(map(_hashable, tree)) if isinstance(tree, (list, tuple)) else _identity(tree)


def _identity(value: Any) -> Any:
    """Return what tells one argument from another: small constants by value, large ones by identity."""
    if not isinstance(value, Tensor):
        return type(value), str(value)
    if value.numel() <= SMALL and not value.requires_grad and value.layout is strided:
        return value.dtype, value.device, value.stride(), tuple(value.shape), str(value.tolist())
    return id(value)
