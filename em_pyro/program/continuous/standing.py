"""Values that stand for continuous latents while a program is read: what is integrated is given, as data would be."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from ..devices import seeded
from ..handlers import name_of


def standing(msg: Any) -> Tensor:
    """Return the values that stand for a latent, the same in every run: standard normal, of the shape of its plates.

    Dimensions of enumerated latents, on which its law may depend, are of size one.
    """
    fn, plates = msg["fn"], {frame.dim for frame in msg["cond_indep_stack"] if frame.vectorized}
    batch = len(fn.batch_shape)
    shape = [size if i - batch in plates else 1 for i, size in enumerate(fn.batch_shape)]
    generator = torch.Generator().manual_seed(zlib.crc32(name_of(msg).encode()))
    return seeded(torch.randn, (*shape, *fn.event_shape), generator=generator, dtype=torch.get_default_dtype())
