"""A term whose statistics are one-hot rows: look columns up and add into them, instead of multiplying with zeros."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ...program.named import align
from ..sites.site_factor import WHOLE, Block, Term

MANY = 12  # categories from which it is faster than a matrix product with zeros


@dataclass(frozen=True)
class Codes:
    """The observations of a term as places in its rows of natural parameters."""

    term: Term
    places: Tensor = field(repr=False)  # (columns...), `term.width` where a value is masked

    def features(self, block: Block = WHOLE) -> Tensor:
        """Places of the rows of `block`, flattened, shape `(1, columns)`."""
        places, columns = self.places, self.term.layout.columns
        if block.plate in columns:
            places = places.narrow(columns.index(block.plate), block.start, block.length)
        return places.reshape(1, -1)

    def factor(self, natural: Tensor, places: Tensor, block: Block = WHOLE, lead: int = 0) -> Tensor:
        """As `Term.factor`."""
        table = torch.nn.functional.pad(natural, (0, 1))
        flat = table.reshape(-1, table.shape[-1])
        found = flat.gather(-1, places.expand(len(flat), -1))
        sizes = self.term.block_sizes(block)
        return align(found.reshape((*natural.shape[:lead], *sizes)), self.term.laid_out, self.term.names)

    def statistics(self, weights: Tensor, places: Tensor, lead: int = 0) -> Tensor:
        """As `Term.statistics`."""
        weights = align(weights, self.term.names, self.term.laid_out)
        kept = weights.shape[: lead + len(self.term.layout.rows)]
        flat = weights.reshape(prod(kept), -1)
        sums = flat.new_zeros((len(flat), self.term.width + 1))
        sums.scatter_add_(-1, places.expand(len(flat), -1), flat)
        return sums[:, :-1].reshape((*kept, -1))


def codes_of(term: Term) -> Codes | None:
    """The observations of `term` as places, if they can be and it pays."""
    if term.layout.batch or term.folded or term.event_shape or term.width < MANY:
        return None
    columns = term.layout.columns
    known = {key: part.tensor for key, part in term.known.items()}
    places = term.family.codes(term.value.tensor, known)
    if places is None or set(term.value.names) - set(columns):
        return None
    shape = [term.sizes[n] for n in columns]
    places = align(places, term.value.names, columns).expand(shape)
    if term.weight is not None:
        weight = term.weight.align(columns).expand(shape)
        if not bool(((weight == 0) | (weight == 1)).all()):
            return None
        places = torch.where(weight == 0, term.width, places)
    return Codes(term, places.contiguous())
