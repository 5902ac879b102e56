"""Draw from distributions without moving a global generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | torch.Generator) -> Iterator[None]:
    """Draw under a seed of its own; the CPU's generator is as it was on leaving, and no other is touched.

    Args:
        seed: a seed, or a generator from which one is drawn.
    """
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(2**63 - 1, (), generator=seed))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
