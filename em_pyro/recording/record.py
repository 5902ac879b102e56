"""Record what a function does to the tensors that depend on its parameters.

Every operation passes by below autograd. Those that no parameter reaches are run and forgotten: their results are
constants of the graph, never copied. The others become steps, which are then trimmed. What a recording cannot stand for
(a branch on a parameter, a number read from one) is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .graph import Graph, Slot, Step, leaves_of, mapped
from .trim import constants, freed, merged, needed, renumbered

LONGEST = 500_000  # operations; beyond, neither the recording nor its first runs are worth while
HELD = 1 << 28  # bytes of derived constants that a graph may hold on to
ALIVE = 1 << 32  # bytes of values that depend on a parameter: all of them are kept while a run is recorded


class Untraceable(Exception):
    """Says why a computation cannot be recorded."""


def record(
    function: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    params: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> Graph:
    """Run `function(params)` once and return it as a graph.

    Args:
        function: from values by name to outputs by name.
        params: where to run it, in the dtypes of the program.
        weights: tensors of a module into which `function` itself puts the values of those names.

    Raises:
        Untraceable: the run depends on values, does what no graph can repeat, or fails under the tape.
    """
    tape = _Tape(params, weights)
    try:
        with torch.enable_grad(), tape:
            outputs = dict(function(tape.params))
        return tape.graph(outputs)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, TypeError, RuntimeError) as error:
        raise Untraceable(f"recording it failed ({type(error).__name__}: {str(error).splitlines()[0]})") from error


class _Tape(TorchDispatchMode):
    def __init__(self, params: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        alone = torch.contiguous_format
        self.params = {name: value.detach().clone(memory_format=alone) for name, value in params.items()}
        self.slots: dict[int, int] = {}  # id of a tensor -> its slot
        self.kept: list[Tensor] = []  # by slot, so that no id is used twice
        self.memory: list[int] = []  # by slot: the storage it lies in
        self.steps: list[Step] = []
        self.made: set[int] = set()  # storages that this run allocated
        self.thawed: dict[int, int] = {}  # storages of constants that a parameter was written into -> slot of all of it
        self.drawn: dict[int, Tensor] = {}  # random numbers, and what was made of them, by storage
        self.alive = 0
        self.refusal: Untraceable | None = None
        self.versions: list[tuple[Tensor, int]] = []  # constants used so far, and their state then
        self.inputs = {name: self._slot(value) for name, value in self.params.items()}
        self.slots.update((id(weight), self.inputs[name]) for name, weight in weights.items())
        self.given = frozenset(self.memory)  # storages of the parameters themselves
        self.followed = set(self.memory)  # storages that hold what depends on a parameter

    def _slot(self, tensor: Tensor) -> int:
        if not self.memory or _storage(tensor) != self.memory[-1]:
            self.alive += tensor.untyped_storage().nbytes()
        if self.alive > ALIVE:
            raise Untraceable(f"recording it would take more than {ALIVE >> 30} GiB at once")
        self.slots[id(tensor)] = number = len(self.kept)
        self.kept.append(tensor)
        self.memory.append(_storage(tensor))
        return number

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch's compiler, which takes longer to import than a recording takes, where it is."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in leaves_of((args, *kwargs.values())) if isinstance(t, Tensor)]
        written = _written(func, args, kwargs)
        followed = any(id(t) in self.slots or _storage(t) in self.followed for t in tensors)
        if not followed:
            if any(_storage(t) not in self.made for t in written):
                raise Untraceable("the model writes into a tensor that it did not make")
            found = func(*args, **kwargs)
            parts = [t for t in leaves_of(found) if isinstance(t, Tensor)]
            self.made.update(_storage(t) for t in parts)
            if torch.Tag.nondeterministic_seeded in func.tags or any(_storage(t) in self.drawn for t in tensors):
                self.drawn.update((_storage(t), t) for t in parts)
            return found
        try:
            return self._follow(func, args, kwargs, written)
        except Untraceable as reason:
            self.refusal = self.refusal or reason  # the program may catch what it cannot know
            raise

    def _follow(self, func: Any, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """Run an operation that a parameter reaches, and note it."""
        self._refuse(func, args)
        for tensor in written:
            self._thaw(tensor)
        held_args = mapped(tuple(args), self._held)
        held_kwargs = {key: mapped(value, self._held) for key, value in kwargs.items()}
        found = func(*args, **kwargs)
        parts = [] if found is None else list(found) if isinstance(found, (tuple, list)) else [found]
        if any(not isinstance(part, Tensor) for part in parts):
            raise Untraceable(f"{func} does not return tensors")
        outputs = []
        for part in parts:
            outputs.append(self.slots[id(part)] if id(part) in self.slots else self._slot(part))
            self.followed.add(_storage(part))
            self.made.add(_storage(part))
        lists = [a for a in (*held_args, *held_kwargs.values()) if isinstance(a, (list, tuple))]
        nested = any(isinstance(leaf, Slot) for leaf in leaves_of(lists))
        self._append(Step(func, held_args, held_kwargs, tuple(outputs), nested, torch.is_grad_enabled(), bool(written)))
        return found

    def _append(self, step: Step) -> None:
        if len(self.steps) >= LONGEST:
            raise Untraceable(f"it takes more than {LONGEST:,} operations")
        self.steps.append(step)

    def _refuse(self, func: Any, args: Any) -> None:
        """Refuse what reads a parameter's value out of a tensor, or its shape from its values."""
        if torch.Tag.data_dependent_output in func.tags:
            raise Untraceable("the model reads a number out of a tensor that depends on a parameter (an `if` on it?)")
        if torch.Tag.dynamic_output_shape in func.tags:
            index = args[1] if func is torch.ops.aten.index.Tensor else args
            if any(
                isinstance(t, Tensor)
                and id(t) in self.slots
                and (t.dtype in (torch.bool, torch.uint8) or index is args)
                for t in leaves_of(index)
            ):
                raise Untraceable("a shape in the model depends on the value of a parameter")

    def _held(self, tensor: Any) -> Any:
        """Return what stands for an argument in a step: a slot where a parameter reaches it, or the value itself."""
        if not isinstance(tensor, Tensor):
            return tensor
        if id(tensor) in self.slots:
            return Slot(self.slots[id(tensor)])
        memory = _storage(tensor)
        if memory in self.thawed:  # another view of it
            if tensor.dtype != self.kept[self.thawed[memory]].dtype:
                raise Untraceable("the model writes into memory that it reads as another dtype")
            op, args = torch.ops.aten.as_strided.default, (tensor.size(), tensor.stride(), tensor.storage_offset())
            view = Slot(self._slot(tensor))
            whole = Slot(self.thawed[memory])
            self._append(Step(op, (whole, *args), {}, (view.number,), nested=False))
            return view
        if memory in self.followed:
            raise Untraceable("the model reaches the memory of a parameter by another way than autograd's")
        self.versions.append((tensor, tensor._version))
        return tensor

    def _thaw(self, tensor: Tensor) -> None:
        """Take what a constant of the program's own making holds before a parameter is written into it."""
        memory = _storage(tensor)
        if memory in self.given:
            raise Untraceable("the model writes into a parameter")
        if memory in self.followed:
            return
        if memory not in self.made:
            raise Untraceable("the model writes a parameter into a tensor that it did not make")
        whole = tensor.detach().as_strided((tensor.untyped_storage().size() // tensor.element_size(),), (1,), 0)
        before = whole.clone()
        self.thawed[memory] = self._slot(whole)
        self.followed.add(memory)
        self._append(Step(torch.ops.aten.clone.default, (before,), {}, (self.thawed[memory],), nested=False))

    # ---- from the tape to a graph ----

    def graph(self, outputs: Mapping[str, Tensor]) -> Graph:
        """Keep what the outputs need."""
        if self.refusal is not None:
            raise self.refusal
        for tensor, version in self.versions:
            if tensor._version != version:
                raise Untraceable("the model changes a tensor after it has used it")
        ends: dict[str, Slot | Tensor] = {name: self._held(tensor) for name, tensor in outputs.items()}
        wanted = [slot.number for slot in ends.values() if isinstance(slot, Slot)]
        steps = needed(self.steps, wanted, list(self.inputs.values()), self.memory)
        random = any(torch.Tag.nondeterministic_seeded in step.op.tags for step in steps)  # type: ignore[attr-defined]
        if random or any(_storage(t) in self.drawn for t in constants(steps)):
            raise Untraceable("the model draws random numbers")
        steps, same = merged(steps, self.memory)
        ends = {name: Slot(same.get(e.number, e.number)) if isinstance(e, Slot) else e for name, e in ends.items()}
        steps = freed(steps, [e.number for e in ends.values() if isinstance(e, Slot)])
        self._affordable(steps)
        used = {n for step in steps for n in step.inputs} | {e.number for e in ends.values() if isinstance(e, Slot)}
        inputs = {name: number for name, number in self.inputs.items() if number in used}
        dtypes = {name: self.params[name].dtype for name in inputs}
        return renumbered(Graph(inputs, dtypes, tuple(steps), ends, len(self.kept)))

    def _affordable(self, steps: list[Step]) -> None:
        """Refuse a graph that would hold on to many large constants that the program computes anew in every run."""
        held = {_storage(t): t.untyped_storage().nbytes() for t in constants(steps) if _storage(t) in self.made}
        if sum(held.values()) > HELD:
            raise Untraceable(f"it would hold {sum(held.values()) >> 20:,} MiB of what the model computes from data")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the arguments that an operator changes in place."""
    found: list[Any] = []
    for position, name in _places(func):
        value = args[position] if position < len(args) else kwargs.get(name)
        found += [t for t in leaves_of(value) if isinstance(t, Tensor)]
    return found


@cache
def _places(func: Any) -> tuple[tuple[int, str], ...]:
    """Return the positions and names of the arguments that an operator changes in place."""
    arguments = enumerate(func._schema.arguments)
    return tuple((k, a.name) for k, a in arguments if a.alias_info is not None and a.alias_info.is_write)
