"""Settings of several options in which every two values of two options meet."""

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

Meeting = tuple[tuple[str, int], tuple[str, int]]
"""A value of one option, and one of another."""


def pairwise(options: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Choose few settings among which every two values of two options meet.

    Each begins with a meeting that is left, and takes of every other option the value with which most of what is left
    comes about.
    """
    left = {
        ((a, i), (b, j)): None
        for a, b in combinations(options, 2)
        for i, j in product(range(len(options[a])), range(len(options[b])))
    }
    rows = []
    while left:
        row = dict(next(iter(left)))
        for name in (name for name in options if name not in row):
            brought = [left.keys() & _meetings(options, {**row, name: i}) for i in range(len(options[name]))]
            row[name] = max(range(len(brought)), key=lambda i: len(brought[i]))
        for meeting in _meetings(options, row) & left.keys():
            del left[meeting]
        rows.append({name: options[name][row[name]] for name in options})
    return rows


def _meetings(options: Mapping[str, list[Any]], row: dict[str, int]) -> set[Meeting]:
    """Return what meets in a row, or in the part of it that is chosen."""
    return set(combinations(((name, row[name]) for name in options if name in row), 2))
