"""The posterior as a table: a row for each row of the data, columns under the user's site names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..errors import ParameterError, library
from ..program.data.columns import index_of
from .inside import plates_of

if TYPE_CHECKING:
    import pandas as pd

STEP = "step"  # of the sequence of a DiscreteHMM


class Columns(NamedTuple):
    """What a table has of one site."""

    levels: tuple[str, ...]  # plates, left to right, and the steps of a sequence
    labels: tuple[Any, ...]  # states; or mean and sd
    values: Tensor  # dimensions of the levels, then labels


def frame(engine: Engine, marginal: Callable[[str], Any], plate: str | None = None) -> pd.DataFrame:
    """Lay the marginals of all latents out as a table.

    Args:
        engine: of the posterior.
        marginal: of a site by its name.
        plate: for latents in several plates, whose rows are wanted: the table has the latents in it and around it.

    Raises:
        ParameterError: no latent is in the plate; or the plates of the latents do not nest, and none is named.
        ModuleNotFoundError: pandas is not installed.
    """
    pandas = library("pandas", "to_frame", "pandas")
    found = {name: _discrete(engine, name, marginal(name)) for name in (*engine.program.latents, *engine.inner)}
    found |= {name: _continuous(engine, name, marginal(name)) for name in _integrated(engine)}
    levels = _levels({name: part.levels for name, part in found.items()}, plate)
    found = {name: part for name, part in found.items() if set(part.levels) <= set(levels)}
    sizes = {level: n for part in found.values() for level, n in zip(part.levels, part.values.shape, strict=False)}
    blocks, labels = list[Tensor](), list[tuple[str, Any]]()
    for name, part in found.items():
        shape = [sizes[level] if level in part.levels else 1 for level in levels]
        values = part.values.reshape((*shape, -1)).expand((*(sizes[level] for level in levels), -1))
        blocks.append(values.reshape((-1, values.shape[-1])).cpu())
        labels += [(name, label) for label in part.labels]
    ranges = [range(sizes[level]) for level in levels]
    index = pandas.MultiIndex.from_product(ranges, names=levels) if len(levels) > 1 else None
    if index is None and levels:
        own = index_of(engine.program.passed, sizes[levels[0]])
        index = pandas.RangeIndex(sizes[levels[0]]) if own is None else own
        index = index.rename(levels[0]) if list(index.names) == [None] else index
    columns = pandas.MultiIndex.from_tuples(labels, names=["site", "state"])
    return pandas.DataFrame(torch.cat(blocks, 1).numpy(), index=index, columns=columns)


def _levels(levels: Mapping[str, tuple[str, ...]], plate: str | None) -> tuple[str, ...]:
    """Return what the rows of the table are: the largest set of plates, or the least that has the one asked for."""
    if not levels:
        raise ParameterError("to_frame: expected a program with latents, got one without.")
    if plate is not None:
        inside = [own for own in levels.values() if plate in own]
        if not inside:
            known = sorted({level for own in levels.values() for level in own})
            raise ParameterError(f'to_frame: expected a plate that holds latents, among {known}, got "{plate}".')
        return min(inside, key=len)
    largest = max(levels.values(), key=len)
    for name, own in levels.items():
        if not set(own) <= set(largest):
            raise ParameterError(
                f'to_frame: expected latents whose plates nest, got "{name}" in {own} beside others in {largest}. Name '
                f'the plate whose rows you want: to_frame("{own[-1]}").'
            )
    return largest


def _discrete(engine: Engine, name: str, found: Tensor) -> Columns:
    """Return the probabilities of the states of a site."""
    program, hidden = engine.program, name in engine.inner
    if hidden:
        plates = (*plates_of(engine, name), STEP)
        return Columns(plates, tuple(range(found.shape[-1])), _flat(found, engine, plates, 2))
    latent = program.latents[name]
    return Columns(latent.plates, tuple(_label(s) for s in latent.support), _flat(found, engine, latent.plates, 1))


def _continuous(engine: Engine, name: str, law: Any) -> Columns:
    """Return the mean and the standard deviation of every coordinate of a Gaussian latent."""
    plates = plates_of(engine, name)
    mean, sd = law.mean, law.variance.sqrt()
    batch = mean.dim() - len(law.event_shape)
    both = [part.reshape((*part.shape[:batch], -1)) for part in (mean, sd)]
    width = both[0].shape[-1]
    where = [f"[{i}]" for i in range(width)] if law.event_shape else [""]
    labels = tuple(f"{what}{i}" for what in ("mean", "sd") for i in where)
    return Columns(plates, labels, _flat(torch.cat(both, -1), engine, plates, 1))


def _integrated(engine: Engine) -> list[str]:
    return [name for name in engine.recognition.runs[0] if name in engine.program.integrated]


def _flat(found: Tensor, engine: Engine, plates: tuple[str, ...], last: int) -> Tensor:
    """Give it one dimension for each plate, where Pyro's own value has others of size one among them."""
    sizes = [engine.program.plates[plate] for plate in plates if plate != STEP]
    return found.reshape((*sizes, *found.shape[found.dim() - last :]))


def _label(state: Tensor) -> Any:
    """Return a state as a number; one of several numbers as text, since pandas takes tuples apart."""
    numbers = [int(x) if float(x).is_integer() else float(x) for x in state.flatten().tolist()]
    return str(tuple(numbers)) if state.dim() else numbers[0]
