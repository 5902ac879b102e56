"""Programs cut in two by the rows of their largest plate."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from em_pyro import ModelError
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.make import engine_of
from oracles.engines import laid_out


class Split(NamedTuple):
    """A program, and its arguments on the rows of two parts of its largest plate."""

    whole: Engine
    here: dict[str, Tensor]
    parts: tuple[tuple[Any, ...], tuple[Any, ...]]


def cuts(args: tuple[Any, ...], rows: int) -> Iterator[list[tuple[int, int]]]:
    """Ways to cut arguments: the first dimension of so many rows of each tensor; first of all of them, then of one."""
    found = [(i, arg.shape.index(rows)) for i, arg in enumerate(args) if isinstance(arg, Tensor) and rows in arg.shape]
    yield found
    yield from ([one] for one in found)


def cut(args: tuple[Any, ...], where: list[tuple[int, int]], rows: Tensor) -> tuple[Any, ...]:
    """Some rows of the arguments."""
    axes = dict(where)
    return tuple(arg.index_select(axes[i], rows) if i in axes else arg for i, arg in enumerate(args))


@cache
def split(name: str) -> Split | None:
    """Split a program by the rows of its largest plate; None where rows are joined, or no arguments."""
    built = laid_out(name)
    torch.set_default_dtype(torch.float64)
    with pyro.get_param_store().scope():
        whole, _ = engine_of(built.program, built.recognition, merge=False)
        plate = whole.plate
        if plate is None or whole.sizes[plate] < 4 or any(plate in p for p in _by_row(whole)):
            return None
        if any(plate not in f.plates or _outside(whole, plate, f.names) for f in whole.factors.values()):
            return None
        rows = whole.sizes[plate]
        few = max(2, rows // 3)
        for where in cuts(built.args, rows):
            first = cut(built.args, where, torch.arange(few))
            second = cut(built.args, where, torch.arange(few, rows))
            try:
                sizes = [built.program.on(part, {}).plates[plate] for part in (first, second)]
            except ModelError:
                continue
            if where and sum(sizes) == rows:
                return Split(whole, built.here, (first, second))
    return None


def _outside(engine: Engine, plate: str, names: tuple[str, ...]) -> bool:
    """Whether a latent outside the plate joins its rows."""
    latents = engine.program.latents
    return any(n in latents and plate not in latents[n].plates for n in names)


def _by_row(engine: Engine) -> list[tuple[str, ...]]:
    """Dimensions of every argument that selects an entry of its own for every row: other rows, other parameters."""
    return [
        role.names
        for reading in engine.recognition.readings.values()
        for role in reading.roles.values()
        if role.affine is None and not role.known
    ]
