"""Which entries of a Hessian are zero whatever the values, and how few backward passes find the others.

Items of a test, rows of a table, states of a chain: parameters in plates enter `Q` side by side, and most of their
second derivatives are zero. Columns that share no row are found together, by one product of the Hessian with their sum.

References:
    Curtis, A. R., Powell, M. J. D. and Reid, J. K. (1974). On the estimation of sparse Jacobian matrices. IMA Journal
    of Applied Mathematics 13, 117-119.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor

from ...program.devices import seeded
from ...records.frozen import frozen

Products = Callable[[Tensor], Tensor]
"""Products of a Hessian with some vectors, `(V, D)` to `(V, D)`."""

WRONG = 1e-8  # of a product with the Hessian, relative to its size: an entry has been missed


@frozen
class Pattern:
    """Entries that may differ from zero.

    Attributes:
        mask: true where they may, shape `(D, D)`.
        colours: columns of one colour share no row, shape `(D,)`.
    """

    mask: Tensor = field(repr=False)
    colours: Tensor = field(repr=False)

    @property
    def width(self) -> int:
        """Backward passes that a Hessian takes, the one that checks it apart."""
        return int(self.colours.max()) + 1 if len(self.colours) else 0


def pattern_of(hessian: Tensor, known: Pattern | None = None) -> Pattern:
    """Return the pattern of a Hessian, and of those seen before; colours are given greedily."""
    mask = (hessian != 0) | torch.eye(len(hessian), dtype=torch.bool, device=hessian.device)
    if known is not None:
        mask = mask | known.mask
    meets = (mask.double().mT @ mask.double() > 0).cpu()
    colours = torch.full((len(mask),), -1)
    for column in range(len(mask)):
        taken = set(colours[meets[column]].tolist())
        colours[column] = next(c for c in range(len(mask)) if c not in taken)
    return Pattern(mask, colours.to(hessian.device))


def whole(products: Products, like: Tensor) -> Tensor:
    """Return a Hessian by its products with all unit vectors."""
    return _symmetric(products(torch.eye(len(like), dtype=like.dtype, device=like.device)))


def folded(products: Products, pattern: Pattern, like: Tensor) -> Tensor | None:
    """Return a Hessian by one product a colour; None if a product with a random vector refutes the pattern."""
    seeds = torch.nn.functional.one_hot(pattern.colours, pattern.width).to(like).mT
    if pattern.width == len(like):
        return _symmetric(torch.where(pattern.mask, products(seeds)[pattern.colours].mT, 0.0))
    generator = torch.Generator().manual_seed(0)
    probe = seeded(torch.rand, len(like), generator=generator, dtype=torch.float64).to(like) - 0.5
    *found, truth = products(torch.cat([seeds, probe[None]]))
    columns = torch.stack(found)[pattern.colours]  # row j: the product of j's colour
    hessian = _symmetric(torch.where(pattern.mask, columns.mT, 0.0))
    off = (hessian @ probe - truth).abs().max()
    return None if float(off) > WRONG * float(truth.abs().max()) else hessian


def _symmetric(hessian: Tensor) -> Tensor:
    return (hessian + hessian.mT) / 2
