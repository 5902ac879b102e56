"""What is known of all rows compared with a run of the model, so that nothing as large as a run is made beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...program.site import Site
from ...program.unroll import unroll
from ..bank import Bank
from ..design.compared import other_argument
from ..reading import Reading
from .bilinear import Bilinear, Slot
from .constants import same_residuals
from .replays import Replays

CELLS = 1 << 19  # at a time that are compared


class Differs(Exception):
    """What was read of a few rows is not that of all."""


def check(
    plate: str,
    replays: Replays,
    sites: Mapping[str, Bilinear],
    readings: Mapping[str, Reading],
    bank: Bank,
    latents: Tensor,
    run: Mapping[str, Site],
) -> None:
    """Compare residuals and arguments with those of a run, slice by slice of the rows.

    Args:
        plate: of the rows.
        replays: of the program, at the parameters of the run.
        sites: the residuals.
        readings: of all sites.
        bank: that these select from.
        latents: all of the run, side by side.
        run: of the program.

    Raises:
        Differs: they are not the same.
    """
    for name, (value, location) in replays.cells(run).items():
        made = sites[name]
        for part, (y, at) in _slices(made, (value, location), plate):
            if not same_residuals(part, replays.params, latents, y, at, replays.noise):
                raise Differs
    apart = unroll(dict(run))
    if other_argument(readings, bank, replays.params, apart, lambda name, key: key == "loc" and name in sites):
        raise Differs


def _slices(made: Bilinear, parts: Sequence[Tensor], plate: str) -> Iterator[tuple[Bilinear, list[Tensor]]]:
    """Yield residuals and tensors of their cells, some rows at a time."""
    if plate not in made.names:
        yield made, list(parts)
        return
    d = made.names.index(plate)
    count = made.shape[d]
    length = max(1, CELLS // max(1, torch.Size(made.shape).numel() // made.shape[d]))
    for start in range(0, count, length):
        size = min(length, count - start)

        def cut(part: Any, start: int = start, size: int = size) -> Any:
            return part if part is None or part.shape[d] == 1 else part.narrow(d, start, size)

        some = replace(
            made,
            shape=(*made.shape[:d], size, *made.shape[d + 1 :]),
            index=tuple(cut(part) for part in made.index),
            constants=tuple(cut(part) for part in made.constants),
            slots=tuple(Slot(cut(slot.which), tuple(cut(s) for s in slot.slopes)) for slot in made.slots),
        )
        yield some, [cut(part) for part in parts]
