"""Plan a contraction from names alone: which factors to multiply, which latents and plates to sum or multiply out.

Innermost plates first (tensor variable elimination: Obermeyer et al. 2019, algorithm 1), the latents of a plate one by
one, the smallest product first. Chains of latents are taken out before, by `chains/find.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ...errors import ModelError
from ...program.named import Named, connected, ordered
from .exponents import ratio
from .schedule import Factor, Product, Schedule, Sum


def plan_contraction(
    factors: Sequence[Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
) -> Schedule:
    """Plan the contraction of `factors`.

    Args:
        factors: in any order.
        owners: for every latent, the plates around its site.
        sizes: of every latent and every plate, in the order in which they should stand in a tensor.

    Raises:
        ModelError: plates cross: a site joins latents of two plates neither of which holds the other.
    """
    plan = _Plan(sizes, [factor.names for factor in factors])
    scales = {factor.plates: factor.scale for factor in factors}
    roots: list[int] = []
    pending: dict[frozenset[str], list[int]] = {}
    for i, factor in enumerate(factors):
        pending.setdefault(factor.plates, []).append(i)
    while pending:
        leaf = max(pending, key=lambda plates: (len(plates), sorted(plates)))
        local = {latent for latent, plates in owners.items() if plates == leaf}
        for component in components(pending.pop(leaf), plan.names, local):
            value = plan.summed(component, local)
            outer = [name for name in plan.names[value] if name in owners]
            above = frozenset[str]().union(*(owners[latent] for latent in outer))
            if outer and not above < leaf:
                raise ModelError(
                    f"Latent sites {outer}: expected plates that nest, got plates that cross inside {sorted(leaf)}. "
                    f"Make one of the plates sequential: for i in pyro.plate(...)."
                )
            scale = ratio(scales.get(leaf), scales.get(above) if outer else None, sizes)
            if leaf or scale is not None:
                value = plan.product(value, leaf - above, scale)
            if outer:
                pending.setdefault(above, []).append(value)
            else:
                roots.append(value)
    return Schedule(tuple(factors), tuple(plan.names), tuple(plan.steps), tuple(roots))


@dataclass
class _Plan:
    """Steps as they are planned, and the dimensions of every value, the factors first."""

    sizes: Mapping[str, int]
    names: list[tuple[str, ...]]
    steps: list[Sum | Product] = field(default_factory=list)

    def summed(self, component: list[int], local: set[str]) -> int:
        """Sum the local latents out of values that share them, and multiply what is left."""
        for latent, touched in _elimination(component, self.names, local, self.sizes):
            component = [i for i in component if i not in touched]
            component.append(self._sum(touched, (latent,)))
        return component[0] if len(component) == 1 else self._sum(component, ())

    def product(self, value: int, over: frozenset[str], scale: Named | None) -> int:
        """Multiply plates out."""
        have = ordered(set(self.names[value]) | set(scale.names if scale else ()), self.sizes)
        missing = tuple((plate, self.sizes[plate]) for plate in sorted(over) if plate not in have)
        inside = tuple(p for p in have if p in over)
        self.steps.append(Product(value, inside, have, missing, scale, len(self.names)))
        self.names.append(tuple(name for name in have if name not in over))
        return len(self.names) - 1

    def _sum(self, inputs: list[int], latent: tuple[str, ...]) -> int:
        rest = ordered({n for i in inputs for n in self.names[i]} - set(latent), self.sizes)
        self.steps.append(Sum(tuple(inputs), latent, latent + rest, len(self.names)))
        self.names.append(rest)
        return len(self.names) - 1


def components(factors: list[int], names: Sequence[tuple[str, ...]], local: set[str]) -> list[list[int]]:
    """Split factors into groups that share no local latent."""
    meetings: dict[str, list[int]] = {}
    for i in factors:
        for name in names[i]:
            if name in local:
                meetings.setdefault(name, []).append(i)
    return connected(factors, meetings.values())


def _elimination(
    component: list[int], names: list[tuple[str, ...]], local: set[str], sizes: Mapping[str, int]
) -> list[tuple[str, list[int]]]:
    """Order of the local latents, least product first (greedy), each with the values that it touches.

    The value that a sum will produce takes the next free number, in the order of the list.
    """
    holders: dict[str, set[int]] = {}
    scope: dict[int, set[str]] = {}
    for i in component:
        scope[i] = set(names[i])
        for name in names[i]:
            if name in local:
                holders.setdefault(name, set()).add(i)

    def cost(latent: str) -> int:
        return prod(sizes[n] for n in set().union(*(scope[i] for i in holders[latent])))

    position = {name: k for k, name in enumerate(sizes)}
    heap = [(cost(latent), position[latent]) for latent in holders]
    heapq.heapify(heap)
    by_position = {position[latent]: latent for latent in holders}
    order: list[tuple[str, list[int]]] = []
    free = len(names)
    while heap:
        was, k = heapq.heappop(heap)
        latent = by_position[k]
        if latent not in holders:
            continue
        now = cost(latent)
        if now != was:
            heapq.heappush(heap, (now, k))
            continue
        touched = sorted(holders.pop(latent))
        scope[free] = set().union(*(scope[i] for i in touched)) - {latent}
        for name in scope[free]:
            if name in holders:
                holders[name] = (holders[name] - set(touched)) | {free}
                heapq.heappush(heap, (cost(name), position[name]))
        order.append((latent, touched))
        free += 1
    return order
