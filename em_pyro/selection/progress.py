"""The bar that `progress=True` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def followed(items: Sequence[Item], what: str, unit: str, *, shown: bool) -> Iterable[Item]:
    """Return the items, one after the other with a progress bar if it is `shown`."""
    if not shown:
        return items
    from tqdm import tqdm

    bar: Iterable[Item] = tqdm(items, desc=what, unit=f" {unit}")
    return bar
