"""Find the chains of a program's latents: those of a loop, say, each coupled to the one before it and to no other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch

from ...program.unroll import FROM, STATE, TIME, TO
from ..contraction.elimination import components
from ..contraction.schedule import Factor
from ..forward_backward.compiled import choose
from ..left import CHAIN, Left
from ..several.abreast import abreast, kind_of
from ..several.stack import Stack
from ..sites.site_factor import SiteFactor
from ..units import Unit
from .chain import Chain
from .parts import Each, Part, Replayed, compiled, marks, renamed

MOVING = "transitions differ between steps"


def take(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take the loops of latents that are coupled one to the next, with all that hangs on them."""
    chains: list[Unit] = []
    for latents, unary, pairs in _straight(list(left.factors.values()), left.owners, left.sizes):
        every = list(left.apart.values())
        states = [[every[i].name for i in step] for step in unary]
        moves = [[every[i].name for i in step] for step in pairs]
        inside = {name for step in (*states, *moves) for name in step}
        sites = [factor for stack in left.stacks for factor in stack.every if factor.name in inside]
        if any(_differs(factor, left.owners) for factor in sites):
            continue
        chain = _loop(latents, states, moves, left)
        chains.append(chain)
        scale = left.factors[moves[0][0]].scale
        left = left.taking(inside, Factor(chain.name, chain.outside, left.owners[latents[0]], scale))
    return chains, left


def _straight(
    factors: Sequence[Factor], owners: Mapping[str, frozenset[str]], sizes: Mapping[str, int]
) -> list[tuple[tuple[str, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]]:
    """All chains of latents that nothing outside their plates touches: latents, what touches one, what touches two."""
    names, found = [factor.names for factor in factors], []
    for leaf in dict.fromkeys(owners.values()):
        local = {latent for latent, plates in owners.items() if plates == leaf}
        touching = [i for i, have in enumerate(names) if any(n in local for n in have)]
        for component in components(touching, names, local):
            if all(factors[i].plates == leaf for i in component):
                chain = _ordered(component, names, local, owners, sizes)
                if chain is not None:
                    found.append(chain)
    return found


def _ordered(
    component: list[int],
    names: Sequence[tuple[str, ...]],
    local: set[str],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
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
    met = set(unary).union(*pairs)
    order = _line([n for n in owners if n in met], pairs)
    if order is None or len(order) < CHAIN or len({sizes[n] for n in order}) > 1:
        return None
    return (
        tuple(order),
        tuple(tuple(unary.get(n, ())) for n in order),
        tuple(tuple(pairs[frozenset(pair)]) for pair in zip(order, order[1:], strict=False)),
    )


def _line(latents: Sequence[str], pairs: Collection[frozenset[str]]) -> list[str] | None:
    """The latents in the order in which pairs join them, from the end that comes first; None if that is no line."""
    beside: dict[str, list[str]] = {n: [] for n in latents}
    for pair in pairs:
        for n in pair:
            beside[n].extend(pair - {n})
    ends = [n for n in latents if len(beside[n]) == 1]
    if len(pairs) != len(latents) - 1 or len(ends) != 2 or any(len(b) > 2 for b in beside.values()):
        return None
    order, before = [ends[0]], None
    while len(order) < len(latents):
        (after,) = [n for n in beside[order[-1]] if n != before]
        before = order[-1]
        order.append(after)
    return order


def _differs(factor: SiteFactor, owners: Collection[str]) -> bool:
    """Whether the base measure of a site differs between states: no chain knows of it."""
    layout = factor.layout
    if not any(n in owners for n in (*layout.batch, *layout.columns)):
        return False
    known = {key: part.tensor for key, part in factor.data.known.items()}
    return factor.family.base(factor.data.value.tensor, known) is not None


def _loop(latents: Sequence[str], unary: Sequence[Sequence[str]], pairs: Sequence[Sequence[str]], left: Left) -> Chain:
    """Put one chain together, of the sites that touch one latent and of those that touch two."""
    words = [{x: STATE} for x in latents]
    steps = [{a: FROM, b: TO} for a, b in zip(latents, latents[1:], strict=False)]
    states, moves = _parts(unary, words, left), _parts(pairs, steps, left)
    # The law of the first state is no likelihood: the recursion starts from it.
    first = [part for part in states if part.steps == (0,) and part.name == latents[0]]
    touched = {n for step in (*unary, *pairs) for name in step for n in left.factors[name].names}
    plates, sizes = left.owners[latents[0]], left.sizes
    outside = tuple(n for n in sizes if n in plates and n in touched and sizes[n] > 1)
    scale = left.factors[pairs[0][0]].scale
    weighted = scale is not None or any(n not in outside and sizes[n] > 1 for n in plates)
    chain = Chain(
        pairs[0][0], f"{latents[0]} ... {latents[-1]}", tuple(latents), sizes[latents[0]], len(latents), tuple(first),
        tuple(moves), tuple(part for part in states if part not in first), outside, sizes, weighted=weighted,
    )  # fmt: skip
    return with_recursion(chain)


def _parts(sites: Sequence[Sequence[str]], words: Sequence[Mapping[str, str]], left: Left) -> list[Part]:
    """Parts of the sites of all steps: those that are one function at several steps are one."""
    place = {factor.name: (stack, factor) for stack in left.stacks for factor in stack.every}
    groups: dict[object, list[tuple[int, SiteFactor]]] = {}
    found: list[Part] = []
    for t, (names, own) in enumerate(zip(sites, words, strict=True)):
        for name in names:
            if name not in place:
                have, wanted = left.factors[name].names, name not in left.constants
                alive = marks([left.factors[name].alive])
                found.append(Replayed(name, renamed(have, own), (t,), have, wanted, alive))
                continue
            stack, factor = place[name]
            key: tuple[object, ...] = (id(stack), renamed(factor.laid_out, own))
            while key in groups and groups[key][-1][0] == t:  # one function twice at a step
                key = (*key, t)
            groups.setdefault(key, []).append((t, factor))
    for members in _abreast(groups.values(), words):
        every, steps = tuple(factor for _, factor in members), tuple(t for t, _ in members)
        alive = marks([left.factors[factor.name].alive for factor in every])
        stack = place[every[0].name][0]
        if any(place[factor.name][0] is not stack for factor in every):
            found.append(Each(abreast(every, words[steps[0]], TIME), steps, alive))
        else:
            found.append(compiled(Stack(every, stack.same), words[steps[0]], steps, alive))
    return found


def _abreast(
    groups: Iterable[list[tuple[int, SiteFactor]]], words: Sequence[Mapping[str, str]]
) -> Iterator[list[tuple[int, SiteFactor]]]:
    """Groups of sites that are one function, and those left alone that differ in their arguments only together."""
    alone: dict[object, list[tuple[int, SiteFactor]]] = {}
    for members in groups:
        t, factor = members[0]
        kind = kind_of(factor, words[t]) if len(members) == 1 else None
        key: tuple[object, ...] = (id(members),) if kind is None else (kind,)
        while key in alone and alone[key][-1][0] >= t:  # two of them at a step
            key = (*key, t)
        alone.setdefault(key, []).extend(members)
    return iter(alone.values())


def with_recursion(chain: Chain, device: torch.device | None = None) -> Chain:
    """Return the chain with the recursion that it runs through, and why."""
    device = device or next((factor.data.value.tensor.device for factor in chain.factors), torch.device("cpu"))
    entries = prod((chain.states, chain.steps, *(chain.sizes[n] for n in chain.outside)))
    method, reason = choose(entries, device)
    if not chain.steady:
        method, reason = "torch", MOVING
    return replace(chain, method=method, reason=reason)
