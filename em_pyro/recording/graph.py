"""A recorded computation: the tensor operations that lead from parameters to log-factors, and nothing else.

A graph is run again at other values without the program that it was recorded from, and autograd differentiates it as
often as it is asked to, because every step is an ordinary torch operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..records.frozen import frozen
from .defined import DEFINED


@dataclass(frozen=True)
class Slot:
    """The place of a value that an earlier step has left."""

    number: int


@frozen
class Step:
    """One operation.

    Attributes:
        op: an operator of torch, such as `torch.ops.aten.mul.Tensor`.
        args: its arguments: constants, and `Slot`s for what is computed.
        kwargs: the same, by name.
        outputs: where its results go, None for those that nothing needs.
        nested: whether a `Slot` stands inside a list.
        differentiable: whether the program ran it with gradients enabled.
        writes: whether it changes one of its arguments in place.
        last: values that no later step needs.
    """

    op: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)
    outputs: tuple[int | None, ...]
    nested: bool
    differentiable: bool = True
    writes: bool = False
    last: tuple[int, ...] = ()

    @cached_property
    def leaves(self) -> list[Any]:
        """Its arguments one by one, those within lists too."""
        return list(leaves_of((self.args, *self.kwargs.values())))

    @cached_property
    def inputs(self) -> list[int]:
        """Values that it needs."""
        return [leaf.number for leaf in self.leaves if type(leaf) is Slot]

    @cached_property
    def run(self) -> Callable[..., Any]:
        """What is run: the operation, with slopes wherever it has a value."""
        return next((run for op, run in DEFINED if self.op is op), self.op)

    def changed(self, change: Callable[[Any], Any]) -> Step:
        """Return the same with every argument changed."""
        kwargs = {key: mapped(value, change) for key, value in self.kwargs.items()}
        return replace(self, args=mapped(self.args, change), kwargs=kwargs)


def leaves_of(tree: Any) -> Iterator[Any]:
    """Return everything within arguments of an operator, which may be lists."""
    if isinstance(tree, (list, tuple)):
        for part in tree:
            yield from leaves_of(part)
    else:
        yield tree


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same arguments with every leaf changed."""
    if isinstance(tree, (list, tuple)):
        parts = [mapped(part, change) for part in tree]
        return parts if isinstance(tree, list) else tuple(parts)
    return change(tree)


@frozen
class Graph:
    """Steps from the values of parameters to named outputs.

    Attributes:
        inputs: parameter -> slot, in the dtype that the program declares.
        dtypes: those dtypes.
        steps: the operations in order; none but those that an output needs.
        outputs: name -> slot, or the tensor itself where no parameter enters it.
        size: number of slots.
        ready: values that are there from the outset.
    """

    inputs: Mapping[str, int]
    dtypes: Mapping[str, torch.dtype]
    steps: tuple[Step, ...] = field(repr=False)
    outputs: Mapping[str, Slot | Tensor] = field(repr=False)
    size: int
    ready: Mapping[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.steps)

    def __call__(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Evaluate all outputs at constrained values of the parameters; differentiable."""
        values = self._filled(params)
        for step in self.steps:
            take(step, values)
            for number in step.last:
                values[number] = None
        return {name: values[o.number] if isinstance(o, Slot) else o for name, o in self.outputs.items()}  # type: ignore[misc]

    def _filled(self, params: Mapping[str, Tensor]) -> list[Tensor | None]:
        values: list[Tensor | None] = [None] * self.size
        for number, value in self.ready.items():
            values[number] = value
        for name, number in self.inputs.items():
            values[number] = _alone(params[name].to(self.dtypes[name]))
        return values

    @cached_property
    def writes(self) -> bool:
        """Whether any step changes a value in place; such a graph is not taken apart."""
        return any(step.writes for step in self.steps)

    @cached_property
    def depends(self) -> dict[str, frozenset[str]]:
        """Output -> parameters from which a path of steps leads to it."""
        if self.writes:  # what shares memory with an argument changes with it
            return dict.fromkeys(self.outputs, frozenset(self.inputs))
        origin: list[frozenset[str]] = [frozenset()] * self.size
        for name, number in self.inputs.items():
            origin[number] = frozenset({name})
        for step in self.steps:
            union = frozenset[str]().union(*(origin[n] for n in step.inputs))
            for output in step.outputs:
                if output is not None:
                    origin[output] = union
        return {k: origin[o.number] if isinstance(o, Slot) else frozenset() for k, o in self.outputs.items()}

    def at(self, params: Mapping[str, Tensor], free: Sequence[str]) -> Graph:
        """Return the graph of the outputs that some of `free` enter; what the others determine is computed now."""
        wanted = {name: o for name, o in self.outputs.items() if self.depends[name] & set(free)}
        if self.writes:
            return replace(self, outputs=wanted)
        if tuple(free) not in self._splits:
            self._splits[tuple(free)] = self._parted(tuple(free))
        before, after = self._splits[tuple(free)]
        values = self._filled(params)
        with torch.no_grad():
            for step in before:
                take(step, values)
        kept = {n for step in after for n in step.inputs} | {o.number for o in wanted.values() if isinstance(o, Slot)}
        ready = {k: value for k, value in enumerate(values) if k in kept and value is not None}
        inputs = {name: n for name, n in self.inputs.items() if name in free}
        return Graph(inputs, self.dtypes, after, wanted, self.size, ready)

    @cached_property
    def _splits(self) -> dict[tuple[str, ...], tuple[tuple[Step, ...], tuple[Step, ...]]]:
        """What `_parted` has found, by `free`: a search asks for the same few in every M-step."""
        return {}

    def _parted(self, free: tuple[str, ...]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """Part the steps that none of `free` enters from the others, and keep of them what the others need."""
        moving = {number for name, number in self.inputs.items() if name in free}
        before, after = list[Step](), list[Step]()
        for step in self.steps:
            late = any(n in moving for n in step.inputs)
            (after if late else before).append(replace(step, last=()))
            if late:
                moving.update(n for n in step.outputs if n is not None)
        needed = {n for step in after for n in step.inputs}
        kept = list[Step]()
        for step in reversed(before):
            if not step.outputs or any(n in needed for n in step.outputs):
                kept.append(step)
                needed.update(step.inputs)
        return tuple(reversed(kept)), tuple(after)


def _alone(value: Tensor) -> Tensor:
    """A parameter laid out as when it was recorded: steps that view its memory count from the beginning of that."""
    alone = value.is_contiguous() and not value.storage_offset()
    return value if alone else value.clone(memory_format=torch.contiguous_format)


def take(step: Step, values: list[Tensor | None]) -> None:
    """Run one step and leave its results in `values`."""
    if step.nested:

        def value(leaf: Any) -> Any:
            return values[leaf.number] if type(leaf) is Slot else leaf

        args, kwargs = mapped(step.args, value), {key: mapped(a, value) for key, a in step.kwargs.items()}
    else:
        args = [values[a.number] if type(a) is Slot else a for a in step.args]
        kwargs = {k: values[a.number] if type(a) is Slot else a for k, a in step.kwargs.items()} if step.kwargs else {}
    if step.differentiable:
        found = step.run(*args, **kwargs)
    else:
        with torch.no_grad():
            found = step.run(*args, **kwargs)
    if len(step.outputs) == 1 and not isinstance(found, (tuple, list)):
        if step.outputs[0] is not None:
            values[step.outputs[0]] = found
        return
    for number, part in zip(step.outputs, found if step.outputs else (), strict=True):
        if number is not None:
            values[number] = part
