"""Values that stand for continuous latents while a program is read: what is integrated is given, as data would be."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from ..devices import seeded
from ..handlers import name_of
from ..named import unwrap


def standing(msg: Any) -> Tensor:
    """Return the values that stand for a latent, the same in every run: standard normal, of the shape of its plates.

    Enumerated latents on which its law may depend give it no dimension, so that rows can be indexed from the left.
    """
    fn, plates = msg["fn"], {frame.dim: frame.size for frame in msg["cond_indep_stack"] if frame.vectorized}
    shape = [plates.get(dim, 1) for dim in range(min(plates, default=0), 0)]
    generator = torch.Generator().manual_seed(zlib.crc32(name_of(msg).encode()))
    drawn = seeded(torch.randn, (*shape, *fn.event_shape), generator=generator, dtype=torch.float64)
    dtypes = [part.dtype for part in vars(unwrap(fn).base).values() if isinstance(part, Tensor)]
    return drawn.to(dtypes[0] if dtypes else torch.get_default_dtype())
