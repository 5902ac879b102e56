"""Plan a contraction from names alone: which factors to multiply, which latents and plates to sum or multiply out.

Innermost plates first (tensor variable elimination: Obermeyer et al. 2019, algorithm 1); latents that form a chain are
taken together, the others one by one, the smallest product first.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import prod

import torch

from ..errors import ModelError
from ..program.named import Named
from ..program.named import ordered as in_order
from .contraction import Chain, Factor, Product, Schedule, Sum

CHAIN = 8  # latents from which a chain is run as one


def plan_contraction(
    factors: Sequence[Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    *,
    chains: bool = True,
) -> Schedule:
    """Plan the contraction of `factors`.

    Args:
        factors: in any order.
        owners: for every latent, the plates around its site.
        sizes: of every latent and every plate, in the order in which they should stand in a tensor.
        chains: whether to run chains of latents as chains; without, latents are summed out one by one in log space.

    Raises:
        ModelError: plates cross: a site joins latents of two plates neither of which holds the other.
    """
    names = [factor.names for factor in factors]
    scales = {factor.plates: factor.scale for factor in factors}
    steps: list[Sum | Product | Chain] = []
    roots: list[int] = []
    pending: dict[frozenset[str], list[int]] = {}
    for i, factor in enumerate(factors):
        pending.setdefault(factor.plates, []).append(i)

    def ordered(these: set[str]) -> tuple[str, ...]:
        return in_order(these, sizes)

    def add_sum(inputs: list[int], latent: tuple[str, ...]) -> int:
        rest = ordered({n for i in inputs for n in names[i]} - set(latent))
        steps.append(Sum(tuple(inputs), latent, latent + rest, len(names)))
        names.append(rest)
        return len(names) - 1

    def add_product(value: int, over: frozenset[str], scale: Named | None) -> int:
        have = ordered(set(names[value]) | set(scale.names if scale else ()))
        missing = tuple((plate, sizes[plate]) for plate in sorted(over) if plate not in have)
        steps.append(Product(value, tuple(p for p in have if p in over), have, missing, scale, len(names)))
        names.append(tuple(name for name in have if name not in over))
        return len(names) - 1

    while pending:
        leaf = max(pending, key=lambda plates: (len(plates), sorted(plates)))
        local = {latent for latent, plates in owners.items() if plates == leaf}
        for component in _components(pending.pop(leaf), names, local):
            found = as_chain(component, names, local, owners, sizes, factors) if chains else None
            if found is not None:
                rest = ordered({n for i in component for n in names[i]} - set(found[0]))
                pooled = _one_pool(found[2], factors)
                shape = tuple(sizes[n] for n in rest)
                steps.append(Chain(*found, rest, shape, pooled, len(names)))
                names.append(rest)
                component = [len(names) - 1]
            for latent, touched in _elimination(component, names, local, sizes):
                component = [i for i in component if i not in touched]
                component.append(add_sum(touched, (latent,)))
            value = component[0] if len(component) == 1 else add_sum(component, ())
            outer = [name for name in names[value] if name in owners]
            above = frozenset[str]().union(*(owners[latent] for latent in outer))
            if outer and not above < leaf:
                raise ModelError(
                    f"Latent sites {outer}: expected plates that nest, got plates that cross inside {sorted(leaf)}. "
                    f"Make one of the plates sequential: for i in pyro.plate(...)."
                )
            scale = _ratio(scales.get(leaf), scales.get(above) if outer else None, ordered)
            if leaf or scale is not None:
                value = add_product(value, leaf - above, scale)
            if outer:
                pending.setdefault(above, []).append(value)
            else:
                roots.append(value)
    return Schedule(tuple(factors), tuple(names), tuple(steps), tuple(roots))


def chains_in(
    factors: Sequence[Factor], owners: Mapping[str, frozenset[str]], sizes: Mapping[str, int]
) -> list[tuple[tuple[str, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]]:
    """All chains of latents that nothing outside their plates touches: latents, what touches one, what touches two."""
    names, found = [factor.names for factor in factors], []
    for leaf in dict.fromkeys(owners.values()):
        local = {latent for latent, plates in owners.items() if plates == leaf}
        touching = [i for i, have in enumerate(names) if any(n in local for n in have)]
        for component in _components(touching, names, local):
            if all(factors[i].plates == leaf for i in component):
                chain = as_chain(component, names, local, owners, sizes, factors)
                if chain is not None:
                    found.append(chain)
    return found


def as_chain(
    component: list[int],
    names: Sequence[tuple[str, ...]],
    local: set[str],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    factors: Sequence[Factor],
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] | None:
    """The latents of a component in order, with what touches one and what touches two of them, if they form a chain."""
    unary: dict[str, list[int]] = {}
    pairs: dict[frozenset[str], list[int]] = {}
    for i in component:
        touched = [n for n in names[i] if n in owners]
        if any(n not in local for n in touched) or not 1 <= len(touched) <= 2:
            return None
        if len(touched) == 1:
            unary.setdefault(touched[0], []).append(i)
        else:
            pairs.setdefault(frozenset(touched), []).append(i)
    beside: dict[str, list[str]] = {}
    for pair in pairs:
        for n in pair:
            beside.setdefault(n, []).extend(pair - {n})
    latents = [n for n in owners if n in beside or n in unary]
    ends = [n for n in latents if len(beside.get(n, ())) == 1]
    straight = len(pairs) == len(latents) - 1 and len(ends) == 2 and all(len(b) <= 2 for b in beside.values())
    if len(latents) < CHAIN or not straight or len({sizes[n] for n in latents}) > 1:
        return None
    order, before = [ends[0]], None
    while len(order) < len(latents):
        (after,) = [n for n in beside[order[-1]] if n != before]
        before = order[-1]
        order.append(after)
    return (
        tuple(order),
        tuple(tuple(unary.get(n, ())) for n in order),
        tuple(tuple(pairs[frozenset(pair)]) for pair in zip(order, order[1:], strict=False)),
    )


def _one_pool(pairs: Sequence[tuple[int, ...]], factors: Sequence[Factor]) -> bool:
    """Whether all pairs of a chain are one factor each, of one pool."""
    if any(len(inputs) != 1 or inputs[0] >= len(factors) for inputs in pairs):
        return False
    pools = {factors[i].pool for (i,) in pairs}
    return len(pools) == 1 and None not in pools


def _ratio(inner: Named | None, outer: Named | None, ordered: object) -> Named | None:
    """Exponent left for the inner plates when the rows of the outer ones carry theirs later; a zero row is absent."""
    if outer is None:
        return inner
    top = inner or Named(torch.ones((), dtype=outer.tensor.dtype), ())
    names = ordered(set(top.names) | set(outer.names))  # type: ignore[operator]
    below = outer.align(names)
    ratio = torch.where(below == 0, below.new_zeros(()), top.align(names) / torch.where(below == 0, 1.0, below))
    return Named(ratio, names)


def _components(factors: list[int], names: list[tuple[str, ...]], local: set[str]) -> list[list[int]]:
    """Split factors into groups that share no local latent (union-find over latents)."""
    root = {i: i for i in factors}

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[str, int] = {}
    for i in factors:
        for name in names[i]:
            if name in local:
                root[find(i)] = find(first.setdefault(name, i))
    groups: dict[int, list[int]] = {}
    for i in factors:
        groups.setdefault(find(i), []).append(i)
    return list(groups.values())


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
