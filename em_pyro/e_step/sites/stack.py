"""Sites that are the same function of the same parameters, evaluated together.

The steps of a chain and the items of a Python loop differ only in their data: their natural parameters are bound once,
and their features stand side by side in one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from ...program.named import align
from ...reading.bank import RoleMap
from ...reading.bound import Bound
from .site_factor import CACHE, WHOLE, Block, Room, Term

COMPARED = 100_000  # entries of an index map up to which two of them are compared


@dataclass(frozen=True)
class Stack:
    """One or more terms with the same natural parameters; the first of them gives the statistics their name."""

    terms: tuple[Term, ...]
    same: bool  # the features are the same too: the latents of a chain
    cache: dict[Block, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def first(self) -> Term:
        """The term that stands for all."""
        return self.terms[0]

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms whose statistics come out."""
        return (self.first,)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the factors that it computes."""
        return tuple(term.name for term in self.terms)

    def natural(self, bound: Bound) -> Tensor:
        """Natural parameters of every cell."""
        return self.first.natural(bound)

    def features(self, block: Block = WHOLE, room: Room | None = None) -> Tensor:
        """Features of all terms, side by side; of a lone term written into `room()`, if that is given."""
        if self.same:
            return self.first.features(block, room)
        if block in self.cache:
            return self.cache[block]
        made = torch.cat([term.features(block) for term in self.terms], -1)
        blocks = 1 if block.plate is None else -(-self.first.sizes[block.plate] // block.length)
        if made.numel() * blocks <= CACHE:
            self.cache[block] = made
            for term in self.terms:
                term.cache.clear()
        return made

    def factors(
        self, natural: Tensor, features: Tensor, block: Block = WHOLE, lead: int = 0
    ) -> tuple[list[Tensor], None]:
        """Log-density of every term, each in the order of its own names; nothing to remember."""
        if self.same:
            term = self.first
            product = term.factor(natural, features, block, lead)
            product = align(product, term.names, term.laid_out)
            return [align(product, term.laid_out, term.names) for term in self.terms], None
        natural = natural if self.first.layout.rows else natural.unsqueeze(-2)
        at = lead + len(self.first.layout.rows)
        flat = natural.reshape((*natural.shape[:lead], -1, natural.shape[-1])) @ features
        sizes = self.first.block_sizes(block)
        rows, columns = sizes[: at - lead], sizes[at - lead :]
        product = flat.reshape((*flat.shape[:lead], *rows, len(self.terms), *columns))
        return [align(part, t.laid_out, t.names) for t, part in zip(self.terms, product.unbind(at), strict=True)], None

    def statistics(
        self,
        shares: Sequence[Tensor | None],
        features: Tensor,
        memo: None = None,
        block: Block = WHOLE,
        lead: int = 0,
    ) -> dict[str, Tensor]:
        """Expected statistics of all terms together, as `Term.statistics`, under the name of the first."""
        if not self.first.parameters:
            return {}
        found = self._sums(shares, features, lead)
        return {} if found is None else self.divided(found)

    def divided(self, sums: Tensor) -> dict[str, Tensor]:
        """Statistics by the name that they carry."""
        return {self.first.name: sums} if self.first.parameters else {}

    def _sums(self, weights: Sequence[Tensor | None], features: Tensor, lead: int) -> Tensor | None:
        parts = [
            align(weight, term.names, term.laid_out)
            for weight, term in zip(weights, self.terms, strict=True)
            if weight is not None
        ]
        if not parts:
            return None
        if self.same:
            total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
            return self.first.statistics(align(total, self.first.laid_out, self.first.names), features, lead)
        kept = parts[0].shape[: lead + len(self.first.layout.rows)]
        flat = [p.reshape((*kept[:lead], prod(kept[lead:]), -1)) for p in parts]
        return (torch.cat(flat, -1) @ features.mT).reshape((*kept, -1))


def stack(terms: Mapping[str, Term]) -> tuple[Stack, ...]:
    """Group terms by what they are a function of; values that are centred get one centre for the group."""
    groups: dict[object, list[Term]] = {}
    for name, term in terms.items():
        groups.setdefault(_signature(term) or name, []).append(term)
    stacks = []
    for members in groups.values():
        shifts = [term.shift for term in members if term.shift is not None]
        if len(members) > 1 and not shifts and _located(members[0]):  # one value a step: they are the rows
            shifts = [torch.where(torch.isfinite(v), v, 0.0) for v in (t.value.tensor.double() for t in members)]
        if len(members) > 1 and shifts:
            centre = torch.stack(shifts).mean(0)
            members = [replace(term, shift=centre, cache={}) for term in members]
        stacks.append(Stack(tuple(members), len(members) == 1 or _same_features(members)))
    return tuple(stacks)


def _located(term: Term) -> bool:
    return term.family.location is not None and term.role == "observed" and not term.value.names


def _signature(term: Term) -> object:
    """Equal for terms with the same natural parameters and the same shape of features; None if it stands alone."""
    if (
        term.family.solver == "rows"
        or term.layout.batch
        or term.centred
        or any(role.affine is not None for role in term.roles.values())
    ):
        return None
    if sum(role.index.numel() for role in term.roles.values()) > COMPARED:
        return None
    rows, columns = term.layout.rows, term.layout.columns
    return (
        id(term.family),
        term.role,
        term.plates,  # sites of other plates are contracted apart
        tuple(term.sizes[n] for n in rows),
        tuple(term.sizes[n] for n in columns if n not in term.plates),
        tuple(n for n in columns if n in term.plates),
        tuple(n for n in rows if n in term.plates),
        term.folded,
        term.events,
        term.event_shape,
        term.counting,
        term.shift is None,
        tuple((key, _bytes(role)) for key, role in sorted(term.roles.items())),
    )


def _bytes(role: RoleMap) -> tuple[bytes | None, ...]:
    parts = (role.index, role.coefficient, role.constant)
    return tuple(None if p is None else p.detach().cpu().contiguous().numpy().tobytes() for p in parts)


def _same_features(members: Sequence[Term]) -> bool:
    """Whether the values are the same in all terms: those of latents are their support."""
    if any(term.role != "latent" or term.known.keys() != members[0].known.keys() for term in members):
        return False
    first = members[0].features()
    return all(term.features().shape == first.shape and torch.equal(term.features(), first) for term in members[1:])
