"""Values that stand for continuous latents while a program is read: what is integrated is given, as data would be."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from ..devices import seeded
from ..handlers import name_of
from ..named import unwrap

FEW = 1000  # entries up to which values are kept: a step of a loop has few, and is run many times
Drawn = dict[tuple[str, tuple[int, ...], torch.dtype], Tensor]
"""What has stood for latents before, by name, shape and dtype."""


def standing(msg: Any, drawn: Drawn) -> Tensor:
    """Return the values that stand for a latent, the same in every run: standard normal, of the shape of its plates.

    Enumerated latents on which its law may depend give it no dimension, so that rows can be indexed from the left.

    Args:
        msg: the statement.
        drawn: of runs before; few values are added to it.
    """
    fn, plates = msg["fn"], {frame.dim: frame.size for frame in msg["cond_indep_stack"] if frame.vectorized}
    shape = (*(plates.get(dim, 1) for dim in range(min(plates, default=0), 0)), *fn.event_shape)
    dtypes = [part.dtype for part in vars(unwrap(fn).base).values() if isinstance(part, Tensor)]
    key = name_of(msg), shape, dtypes[0] if dtypes else torch.get_default_dtype()
    if key in drawn:
        return drawn[key].clone()  # the model may write into it
    generator = torch.Generator().manual_seed(zlib.crc32(key[0].encode()))
    found = seeded(torch.randn, shape, generator=generator, dtype=torch.float64).to(key[2])
    if found.numel() <= FEW:
        drawn[key] = found.clone()
    return found
