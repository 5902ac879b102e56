"""Chunks: slices of the rows of one plate, of a size whose features and log-densities stay in cache."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..program.named import Named

CHUNK_BYTES = 1 << 22  # of features and log-densities together: a second-level cache, and a share of the third
LEAST = 256  # rows: below, the calls cost more than what they compute


class Chunk(NamedTuple):
    """Rows of one plate; None is all of them."""

    plate: str | None
    start: int = 0
    length: int = 0

    def size(self, name: str, whole: int) -> int:
        """How many rows of a plate of `whole` rows are in here."""
        return self.length if name == self.plate else whole

    def cut(self, part: Named) -> Tensor:
        """The rows of a named tensor that are in here; all of them where the plate is none of its dimensions."""
        if self.plate not in part.names:
            return part.tensor
        trailing = part.tensor.dim() - len(part.names)
        at = part.names.index(self.plate) - len(part.names) - trailing
        return part.tensor.narrow(at, self.start, self.length)


WHOLE = Chunk(None)


def chunks_of(plate: str, size: int, rows: int) -> tuple[Chunk, ...]:
    """Cut a plate of `size` rows into chunks of about `rows`, alike in size; one chunk is the whole.

    A chunk may be an eighth larger: a last one of few rows would cost as many calls as one of many.
    """
    count = -(-size * 8 // (9 * rows))
    if count <= 1:
        return (WHOLE,)
    rows = -(-size // count)
    return tuple(Chunk(plate, start, min(rows, size - start)) for start in range(0, size, rows))


def rows_of(width: int, inner: int = 1) -> int:
    """Return how many rows a chunk has, by the float64 numbers of one, which holds `inner` rows of other plates."""
    return max(1, LEAST // inner, CHUNK_BYTES // (8 * width))
