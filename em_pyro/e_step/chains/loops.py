"""Find the `pyro.markov` loops of a program that can be run as one unit each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from ...program.named import Named
from ..contraction import Factor
from ..elimination import chains_in
from ..forward_backward.compiled import choose
from ..sites.rows import RowTerm
from ..sites.site_factor import Term
from ..sites.stack import Stack
from .codes import codes_of
from .markov import Group, Markov


def markov_units(
    stacks: Sequence[Stack],
    factors: Mapping[str, Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
) -> tuple[list[Stack], list[Markov], dict[str, Factor]]:
    """Take out of `stacks` what belongs to a chain.

    Returns:
        The other stacks; the chains; the factors, those of each chain as one under the chain's name.
    """
    units: list[Markov] = []
    left, kept = list(stacks), dict(factors)
    every = list(factors.values())
    for latents, unary, pairs in chains_in(every, owners, sizes):
        names = [[every[i].name for i in step] for step in unary]
        moves = [[every[i].name for i in step] for step in pairs]
        unit = _unit(latents, names, moves, left, factors, owners, sizes)
        if unit is None:
            continue
        inside = {name for step in (*names, *moves) for name in step}
        left = _without(left, inside)
        units.append(unit)
        plates = owners[latents[0]]
        kept = {name: factor for name, factor in kept.items() if name not in inside}
        kept[unit.name] = Factor(unit.name, unit.rows, plates, factors[moves[0][0]].scale)
    return left, units, kept


def _without(stacks: Sequence[Stack], names: set[str]) -> list[Stack]:
    left = []
    for stack in stacks:
        terms = tuple(term for term in stack.terms if term.name not in names)
        if len(terms) == len(stack.terms):
            left.append(stack)
        elif terms:
            left.append(Stack(terms, stack.same))
    return left


def _unit(
    latents: Sequence[str],
    unary: Sequence[Sequence[str]],
    pairs: Sequence[Sequence[str]],
    stacks: Sequence[Stack],
    factors: Mapping[str, Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
) -> Markov | None:
    """Put one chain together; None where a part of it is not a stacked term, or transitions differ."""
    place = {term.name: (k, term) for k, stack in enumerate(stacks) for term in stack.terms}
    plates = owners[latents[0]]
    rows = tuple(n for n in sizes if n in plates and sizes[n] > 1)
    if any(len(step) != 1 or step[0] not in place for step in pairs):
        return None
    moves = [place[step[0]] for step in pairs]
    steps = [((t.layout.rows, t.layout.columns) if not t.layout.batch else None) for _, t in moves]
    forth = [((a,), (b,)) for a, b in zip(latents, latents[1:], strict=False)]
    backwards = steps[0] == forth[0][::-1]
    one = len({k for k, _ in moves}) == 1 and (len(moves) == 1 or stacks[moves[0][0]].same)
    if not one or steps != [pair[::-1] if backwards else pair for pair in forth]:
        return None
    groups: dict[int, list[tuple[int, Term]]] = {}
    for t, step in enumerate(unary):
        for name in step:
            if name not in place:
                return None
            k, term = place[name]
            if not _fits(term, latents[t], rows, owners):
                return None
            groups.setdefault(k, []).append((t, term))
    made = []
    for members in groups.values():
        at = tuple(t for t, _ in members)
        terms = tuple(term for _, term in members)
        law = terms[0].role == "latent"
        if len(set(at)) < len(at) or (law and len(members) > 1):
            return None
        codes = [] if law else [c for c in map(codes_of, terms) if c is not None]
        full = len(at) == len(latents)
        made.append(Group(Stack(terms, law), at, full, tuple(codes) if len(codes) == len(terms) else None))
    if not made:
        return None
    made.sort(key=lambda group: not group.full)
    touched = {n for step in (*unary, *pairs) for name in step for n in factors[name].names}
    rows = tuple(n for n in rows if n in touched)
    first = factors[moves[0][1].name]
    weighted = first.scale is not None or any(n not in rows and sizes[n] > 1 for n in plates)
    entries = prod((sizes[latents[0]], len(latents), *(sizes[n] for n in rows)))
    method, reason = choose(entries, moves[0][1].value.tensor.device)
    return Markov(
        pairs[0][0], sizes[latents[0]], len(latents), Stack(tuple(t for _, t in moves), same=True), backwards,
        tuple(made), rows, sizes, _alive([factors[n].alive for n in latents], rows), weighted, method, reason,
    )  # fmt: skip


def _fits(term: Term, latent: str, rows: Sequence[str], owners: Mapping[str, frozenset[str]]) -> bool:
    """Whether a site on one latent is cells by columns: states by rows of data, or the law of the latent itself."""
    if isinstance(term, RowTerm) or term.centred or term.layout.batch or term.layout.folded:
        return False
    if any(n not in rows for n in term.columns if n not in term.folded and n != latent):
        return False
    if term.role == "latent":
        return (
            term.layout.columns == (latent,)
            and not term.layout.rows
            and term.family.base(term.value.tensor, {k: p.tensor for k, p in term.known.items()}) is None
        )
    return term.layout.rows == (latent,)


def _alive(marks: Sequence[Named | None], rows: tuple[str, ...]) -> Named | None:
    """Entries of all latents that enter the statistics, with the steps first."""
    if all(mark is None for mark in marks):
        return None
    one = next(mark.tensor for mark in marks if mark is not None).new_ones((1,) * len(rows), dtype=torch.float64)
    parts = [one if mark is None else mark.align(rows).double() for mark in marks]
    shape = [max(part.shape[k] for part in parts) for k in range(len(rows))]
    return Named(torch.stack([part.expand(shape) for part in parts]), (" ", *rows))
