"""Arguments as readings bind them, compared with those of a run of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...program.named import Named, Params, batched, squeeze, unexpand
from ...program.site import Site
from ..bank import Bank, bound_once, entries_of, list_of
from ..bound import Bound
from ..reading import Reading, arguments

SAME = {torch.float64: 1e-9, torch.float32: 1e-4}
ALIKE = {False: 1e-11, True: 1e-4}  # of the largest entry: by what entries that are one differ, in double and in single


def idle(parts: Sequence[Tensor], dims: int, *, single: bool) -> tuple[int, ...]:
    """Return the first dimensions, of so many, along which a part varies at none of some parameters."""
    long = [d for d in range(dims) if parts[0].shape[d] > 1]
    return tuple(d for d in long if all(_still(part, d, ALIKE[single]) for part in parts))


def _still(part: Tensor, dim: int, rounding: float) -> bool:
    first, sizes = part.narrow(dim, 0, 1), part.abs().nan_to_num(posinf=0.0)
    gap = torch.where(part == first, 0.0, part - first).abs()
    return bool((gap <= rounding * sizes.max()).all()) if part.numel() else True


def other_argument(
    readings: Mapping[str, Reading],
    bank: Bank,
    params: Params,
    run: Mapping[str, Site],
    leave_out: Callable[[str, str], bool] = lambda _, __: False,
) -> tuple[str, str] | None:
    """Return the first site, and its argument, that is not what the model has; None if all are.

    Args:
        readings: of all sites, the steps of loops one by one.
        bank: that these select from.
        params: where the model was run.
        run: of the model, by the names of the readings.
        leave_out: tells of a site and an argument whether it is passed over.
    """
    batch = Bound(batched(params), bank).sources
    atoms = {"entries": bank.values(batch), "probabilities": entries_of(bank.probabilities, batch)}
    atoms["matrices"] = bank.stack(batch) if bank.matrices else torch.zeros(0)
    for name, reading in readings.items():
        truth = arguments(reading.family, run[name])
        for key, role in reading.roles.items():
            own = reading.family.roles[key]
            event = reading.event_rank + own.event_dim
            if not leave_out(name, key):
                bound = Named(bound_once(role, atoms[list_of(own.domain)], batch), role.names)
                if not _same(squeeze(unexpand(truth[key], event), run[name].dims, name, event), bound):
                    return name, key
    return None


def _same(truth: Named, bound: Named) -> bool:
    names = (*truth.names, *(n for n in bound.names if n not in truth.names))
    a, b = (part.align(names).double() for part in (truth, bound))
    rtol = SAME[torch.float32 if torch.float32 in (truth.tensor.dtype, bound.tensor.dtype) else torch.float64]
    size = b.abs().amax() if b.numel() else 0.0
    return bool(((a == b) | ((a - b).abs() <= rtol * (b.abs() + 1e-6 * size))).all())
