"""Draw states from their log-weights, many times at once, and no more at a time than memory is well used for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...program.devices import seeded

AT_ONCE = 2**22  # numbers that a few draws may take at a time: 32 MB


def drawn(logits: Tensor, n: int, dim: int, generator: torch.Generator) -> Tensor:
    """Draw `n` states along `dim`, each where a uniform number falls among the cumulative weights.

    Args:
        logits: log-weights, one or `n` along the first dimension. Where all are -inf every state is as good as another.
        n: how many draws.
        dim: of the states, from the end.
        generator: of the uniform numbers.

    Returns:
        Their indices, without `dim`: a state of weight zero is never among them.
    """
    weights = logits.double().clamp(min=torch.finfo(torch.float64).min).softmax(dim).cumsum(dim)
    last = weights.shape[dim] - 1
    bounds = weights.narrow(dim, 0, last) / weights.narrow(dim, last, 1)
    shape = [n, *(size for i, size in enumerate(logits.shape) if i not in (0, logits.dim() + dim))]
    number = seeded(torch.rand, shape, generator=generator, dtype=torch.float64).to(logits.device)
    return (number.unsqueeze(dim) >= bounds).sum(dim)


def portions(n: int, entries: Sequence[int]) -> Iterator[int]:
    """Split `n` draws, of each of which at most so many entries are needed at a time."""
    most = max(1, AT_ONCE // max((1, *entries)))
    while n > 0:
        yield min(n, most)
        n -= most
