"""Components that are alike: the law of their latents, log evidence, and expected products of covariates and residuals.

With residuals `r = a + A z` of unit variance once whitened, a component has

    J = A' A,   E z = m = -J^-1 A' a,   Cov z = J^-1,
    log Z = -|a + A m|^2 / 2 - log det(J) / 2 + k log(2 pi) / 2 - sum of the logarithms of scales.

Members that have the same `J` enter by their second moments alone, so that they are replaced by as few that have the
same: rows of a triangular factor. References: Rubin and Thayer (1982), EM algorithms for ML factor analysis,
Psychometrika 47; Laird and Ware (1982), Random-effects models for longitudinal data, Biometrics 38.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, replace
from functools import cached_property

import torch
from torch import Tensor

from ...records.frozen import frozen
from .block import DENSE, Block, Patterns, beside
from .law import Law, Whitened, law_of, residual_of, standing, taken_of, whitened
from .precision.factored import Factored, factor
from .precision.orthogonal import orthogonal, own_rows, strained
from .precision.places import Spots, places_of, put
from .precision.proper import undetermined
from .rows import Part

Bindings = Sequence[tuple[Tensor, Tensor]]
"""Of every site the coefficients and the roots of its cells."""


@frozen
class Group:
    """Components that are alike.

    Attributes:
        blocks: rows of the sites that they have.
        entries: latent entries of every member, (members, k), before they were replaced.
        patterns: of the members.
        free: which latents of every pattern are not observed exactly and have a density, (p, k).
        given: values of those that are observed, (n, k); None is none.
        one: what stands for one in every member, (n,); None is one.
        counts: how many components every pattern has, row weights counted, (p,).
        width: of the blocks of its precision, where that is a chain of blocks; 0 is a whole matrix.
        at: where the evidence of every member goes, among the rows of its factor; None is one number.
        repeats: how often every member is there, in a row of its factor that is there once, (n,); None is once.
        method: "numba" or "torch", how a chain is factored.
        reason: for that method.
    """

    blocks: tuple[Block, ...]
    entries: Tensor = field(repr=False)
    patterns: Patterns
    free: Tensor = field(repr=False)
    given: Tensor | None = field(repr=False)
    one: Tensor | None = field(repr=False)
    counts: Tensor = field(repr=False)
    width: int
    at: Tensor | None = field(repr=False)
    repeats: Tensor | None = field(default=None, repr=False)
    method: str = "torch"
    reason: str = ""

    @property
    def k(self) -> int:
        """Latents of a component."""
        return self.entries.shape[1]

    @property
    def alone(self) -> bool:
        """Whether there is one pattern."""
        return len(self.counts) == 1

    @property
    def chain(self) -> str:
        """How a chain of blocks is factored, as the plan says it."""
        how = "compiled loops" if self.method == "numba" else "in torch"
        return f", in a chain of blocks of {self.width} ({how}, because {self.reason})"

    @property
    def held(self) -> int:
        """Numbers that their law takes in one state: matrices of patterns, latents and residuals of members."""
        matrices = len(self.counts) * self.k * (4 * self.width or 2 * self.k)
        residuals = sum(block.residuals for block in self.blocks)
        return matrices + len(self.patterns.of) * (self.k + residuals)

    def into_rows(self, each: Tensor, rows: int) -> Tensor:
        """Add up what members or patterns alone have, (..., n) or (..., 1), in so many rows of the factor."""
        if self.repeats is not None:
            each = each * self.repeats
        elif each.shape[-1] == 1 and self.one is None:
            each = each.expand((*each.shape[:-1], len(self.entries)))
        if self.at is None:
            return each.sum(-1, keepdim=True)
        return each.new_zeros((*each.shape[:-1], rows)).index_add_(-1, self.at, each)

    @cached_property
    def places(self) -> tuple[tuple[Tensor, ...], int, str]:
        """Where the products of every block are added up, (c, F), how many places there are, and how it is done."""
        every, size = self._every_place
        some = (at if kept is None else at[:, kept] for at, kept in zip(every, self.kept, strict=True))
        return tuple(at.contiguous() for at in some), size, self.method

    @cached_property
    def kept(self) -> tuple[Tensor | None, ...]:
        """Which products of the slots of every block, of all f f, have a place in some row; None is all."""
        every, size = self._every_place
        found = [(at < size).any(0) for at in every]
        return tuple(None if bool(some.all()) else some.nonzero().squeeze(-1) for some in found)

    @property
    def _every_place(self) -> tuple[list[Tensor], int]:
        found = [places_of(block.added, self.k, self.width) for block in self.blocks]
        return [at for at, _ in found], found[0][1]

    @cached_property
    def pulled(self) -> tuple[tuple[Tensor, ...], int, str]:
        """The same of what is a number for each latent, (c, f)."""
        found = tuple(torch.where(block.added >= 0, block.added, self.k) for block in self.blocks)
        return found, self.k, self.method

    @cached_property
    def spots(self) -> tuple[Spots, ...]:
        """Where the covariances of the latents that rows take stand, of every block."""
        return tuple(Spots.of(b.slots, self.k, self.width) for b in self.blocks)

    def bound(self, k: int, binding: tuple[Tensor, Tensor]) -> Whitened:
        """Bind block `k`; one that no parameter enters only once."""
        block = self.blocks[k]
        if k in self._known:
            return self._known[k]
        law = law_of(block, self.standing[k], *binding)
        if self.given is not None:  # latents that are observed are constants
            law = replace(law, constants=residual_of(law, taken_of(block, self.given[None, None]), self.patterns.of))
        found = whitened(law, self.patterns.of)
        if block.known:
            self._known[k] = found
        return found

    @cached_property
    def standing(self) -> tuple[Sequence[Part], ...]:
        """Of every block the constants: covariates, then the response, (z, n, c, e) each."""
        return tuple(standing(block.constants, self.one) for block in self.blocks)

    def lines(self, k: int) -> Tensor | None:
        """The covariates of block `k` where all latents are zero, (1, z, n, c, e, J); None is zero."""
        if k not in self._lines:
            parts = self.standing[k][:-1]
            found = None if all(part is None for part in parts) else beside(parts).unsqueeze(0)
            if found is not None and found.numel() > DENSE:  # made anew, so that it does not stand beside its parts
                return found
            self._lines[k] = found
        return self._lines[k]

    @cached_property
    def _lines(self) -> dict[int, Tensor | None]:
        """Those that are small."""
        return {}

    @cached_property
    def _known(self) -> dict[int, Whitened]:
        """Blocks that no parameter enters."""
        return {}

    @cached_property
    def constant(self) -> Tensor:
        """What every pattern adds to the log evidence: `k log(2 pi) / 2`, (p,)."""
        return 0.5 * math.log(2 * math.pi) * self.free.sum(-1).double()

    @cached_property
    def offset(self) -> Tensor:
        """What known scales add to it, of every member, (z, n)."""
        each = [block.offset for block in self.blocks if block.offset is not None]
        return added([torch.zeros((1, 1), dtype=torch.float64), *each])

    @cached_property
    def whole(self) -> bool:
        """Whether no latent is observed exactly, or without a density."""
        return bool(self.free.all())


@frozen
class Posterior:
    """The law of the latents of a group, at bound arguments.

    Attributes:
        laws: of the blocks.
        mean: (s, z, n, k).
        taken: of it what every row takes, of every block, (s, z, n, c, f).
        precision: of every pattern, factored.
        residuals: of every block at the mean, (s, z, n, c, e).
        evidence: log Z of every member, (s, z, n).
    """

    laws: tuple[Law, ...]
    mean: Tensor = field(repr=False)
    taken: tuple[Tensor, ...] = field(repr=False)
    precision: Factored = field(repr=False)
    residuals: tuple[Tensor, ...] = field(repr=False)
    evidence: Tensor = field(repr=False)


def posterior(group: Group, bindings: Bindings) -> Posterior:
    """Sum the latents out."""
    white = [group.bound(k, bindings[block.site]) for k, block in enumerate(group.blocks)]
    laws, free, of = tuple(each.law for each in white), group.free, group.patterns.of
    every = (each.precision for each in white)
    some = [part if kept is None else part[..., kept] for part, kept in zip(every, group.kept, strict=True)]
    flat = put(some, *group.places)
    pull = put([each.pull for each in white], *group.pulled)
    if not group.whole:
        pull = pull * free[of]
    own = own_rows(flat, group.k, group.width)
    precision: Factored = factor(flat, free, group.k, group.width, group.method)
    square: Tensor | None = None
    if strained(own, precision):
        precision, mean, square = orthogonal(group.blocks, _every_row(white), free, of)
    else:
        mean = -precision.solve(pull, of)
    taken = tuple(taken_of(block, mean) for block in group.blocks)
    residuals = tuple(residual_of(law, mine, of) for law, mine in zip(laws, taken, strict=True))
    constant = group.constant - precision.log_det + added([each.log_roots for each in white])
    if square is None:
        square = added([_squared(law, residual, of) for law, residual in zip(laws, residuals, strict=True)])
    evidence = _of_members(group, constant) - 0.5 * square + group.offset
    if group.given is not None:
        mean = mean + group.given
        taken = tuple(taken_of(block, mean) for block in group.blocks)
    return Posterior(laws, mean, taken, precision, residuals, evidence)


def _every_row(white: Sequence[Whitened]) -> list[tuple[Tensor, Tensor]]:
    """Whitened slopes and constants with all rows laid out, also where they have it in common."""
    return [
        (
            slopes.expand((*slopes.shape[:3], law.block.rows, *slopes.shape[4:])),
            constants.expand((*constants.shape[:3], law.block.rows, *constants.shape[4:])),
        )
        for law, slopes, constants, *_ in white
    ]


def undetermined_entries(group: Group, bindings: Bindings) -> Tensor:
    """Latent entries that nothing determines, among those of all members; mostly none."""
    found = posterior(group, bindings)
    white = _every_row([group.bound(k, bindings[block.site]) for k, block in enumerate(group.blocks)])
    which = undetermined(group.blocks, white, group.free, found.evidence)
    return group.entries[:, :0] if which is None else group.entries[:, which]


def added(parts: Sequence[Tensor]) -> Tensor:
    """Add up; parts broadcast."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _of_members(group: Group, constant: Tensor) -> Tensor:
    """What a component of each pattern has, (s, z, p), by member; where members stand for others, all at the first."""
    if group.one is None:
        return constant[..., group.patterns.of] if not group.alone else constant
    found = constant.new_zeros((*constant.shape[:-1], len(group.patterns.of)))
    found[..., group.patterns.first] = constant * group.counts
    return found


def _squared(law: Law, residual: Tensor, of: Tensor) -> Tensor:
    """Whitened residuals of a block, squared and added up: (s, z, n)."""
    white = law.whitened(residual, slots=False)
    white = white if law.block.weight is None else white * law.block.weight[of]
    return white.square().sum((-1, -2))
