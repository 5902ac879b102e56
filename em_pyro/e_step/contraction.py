"""Log-sum-product over named factors: log evidence forwards, posterior weights backwards.

The schedule is planned once from names alone (tensor variable elimination: Obermeyer et al. 2019, algorithm 1):
innermost plates first, the latents of a plate are summed out one by one, then the plate is multiplied out into the
plates above it. Run forwards it gives `log Z`; run backwards, by the chain rule written out by hand, it gives `W_s = d
log Z / d L_s`, the exact posterior weight of every factor, with no autograd graph over the data.

Dimensions left of the named ones are batch dimensions (several starts at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape  # torch's own imports a second of symbolic algebra
from torch import Tensor

from ..program.named import Named, align
from .forward_backward import chain

# exp is several times slower where it underflows; what is below exp(floor) is zero in any sum that it enters.
FLOOR = {torch.float64: -700.0, torch.float32: -80.0}


@dataclass(frozen=True)
class Factor:
    """What a schedule needs to know of one factor."""

    name: str
    names: tuple[str, ...]  # its dimensions: latents and plates
    plates: frozenset[str]  # the plates around its site, whether it has their dimension or not
    scale: Named | None = field(default=None, repr=False)  # exponent of each row; None is one
    alive: Named | None = field(default=None, repr=False)  # rows that enter the weights; None is all
    pool: str | None = None  # factors of one pool are one function, and only the sum of their weights is wanted


@dataclass(frozen=True)
class Sum:
    """Multiply the inputs and sum out the latents `over` (none: only multiply)."""

    inputs: tuple[int, ...]
    over: tuple[str, ...]
    names: tuple[str, ...]  # dimensions of the product: `over`, then what is left
    output: int


@dataclass(frozen=True)
class Product:
    """Multiply one input over the plates `over`, each row raised to the power `scale`."""

    input: int
    over: tuple[str, ...]
    names: tuple[str, ...]  # dimensions of the input and of the scale
    missing: tuple[tuple[str, int], ...]  # plates of `over` on which neither depends, with their sizes
    scale: Named | None
    output: int

    @property
    def copies(self) -> int:
        """How often a row of the input occurs."""
        return prod(size for _, size in self.missing)


@dataclass(frozen=True)
class Chain:
    """Sum out latents that form a chain, by forward-backward instead of one by one."""

    latents: tuple[str, ...]  # in order
    unary: tuple[tuple[int, ...], ...]  # values that touch one latent, by step
    pairs: tuple[tuple[int, ...], ...]  # values that touch a step and the next
    rows: tuple[str, ...]  # plates
    row_shape: tuple[int, ...]
    pooled: bool  # whether all pairs are one function whose weights are wanted only as a sum
    output: int


@dataclass(frozen=True)
class Schedule:
    """A planned contraction of `factors`, by position, down to one number per start."""

    factors: tuple[Factor, ...]
    names: tuple[tuple[str, ...], ...]  # dimensions of every value, the inputs first
    steps: tuple[Sum | Product | Chain, ...]
    roots: tuple[int, ...]

    def contract(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """Return `log Z` and the posterior weight of every factor, in its dimensions.

        Of a pool, one factor has the sum of all weights and the others None.
        """
        log_z, values, weights = self.forward(inputs)
        return log_z, self.backward(values, weights)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Return `log Z`, the value after every step (inputs first), and the normalised weights of every step."""
        values, weights = list(inputs), list[Any]()
        for step in self.steps:
            value: Tensor
            weight: Any
            if isinstance(step, Sum):
                value, weight = self._sum(values, step)
            elif isinstance(step, Chain):
                value, weight = self._chain(values, step)
            else:
                value, weight = self._product(values[step.input], step), None
            values.append(value)
            weights.append(weight)
        return sum((values[root] for root in self.roots), torch.zeros(())), values, weights

    def backward(self, values: Sequence[Tensor], weights: Sequence[Any]) -> list[Tensor | None]:
        """Posterior weight of every factor, in its dimensions; rows that are not `alive` are left out."""
        upper: list[Tensor | None] = [None] * len(values)
        pooled: set[int] = set()
        for root in self.roots:
            upper[root] = torch.ones_like(values[root])
        for step, weight in zip(reversed(self.steps), reversed(weights), strict=True):
            flow = upper[step.output]
            assert flow is not None
            if isinstance(step, Chain):
                self._chain_back(values, step, weight, flow, upper, pooled)
                continue
            rest = tuple(name for name in step.names if name not in step.over)
            flow = align(flow, rest, step.names)
            if isinstance(step, Product):
                flow = flow * step.copies if step.copies != 1 else flow
                flow = flow if step.scale is None else flow * step.scale.align(step.names)
                upper[step.input] = self._collect(flow, step.names, step.input, values)
            else:
                flow = flow if weight is None else weight * flow
                for i in step.inputs:
                    upper[i] = self._collect(flow, step.names, i, values)
        found = zip(upper, values, range(len(self.factors)), strict=False)
        return [None if i in pooled else torch.ones_like(v) if u is None else u for u, v, i in found]

    def narrow(self, plate: str, start: int, length: int) -> Schedule:
        """Return the schedule for rows `start .. start + length` of `plate`."""

        def cut(part: Named | None) -> Named | None:
            if part is None or plate not in part.names:
                return part
            return Named(part.tensor.narrow(part.names.index(plate), start, length), part.names)

        factors = tuple(replace(f, scale=cut(f.scale), alive=cut(f.alive)) for f in self.factors)
        steps = tuple(
            replace(s, scale=cut(s.scale), missing=tuple((p, length if p == plate else n) for p, n in s.missing))
            if isinstance(s, Product)
            else s
            for s in self.steps
        )
        steps = tuple(
            replace(s, row_shape=tuple(length if r == plate else n for r, n in zip(s.rows, s.row_shape, strict=True)))
            if isinstance(s, Chain)
            else s
            for s in steps
        )
        return replace(self, factors=factors, steps=steps)

    # ---- chains ----

    def _chain(self, values: Sequence[Tensor], step: Chain) -> tuple[Tensor, chain.Smoothed]:
        rows, count = step.rows, prod(step.row_shape)
        lead = max(values[i].dim() - len(self.names[i]) for t in (*step.unary, *step.pairs) for i in t)
        shape = broadcast_shape(*(values[i].shape[:lead] for i in step.pairs[0] + step.unary[0]))
        parts = []
        for latent, inputs in zip(step.latents, step.unary, strict=True):
            part: Tensor | None = None
            for i in inputs:
                found = align(values[i], self.names[i], (latent, *rows))
                part = found if part is None else part + found
            if part is None:
                part = values[step.pairs[0][0]].new_zeros((self._states(values, step, latent), *(1,) * len(rows)))
            states = part.shape[-1 - len(rows)]
            parts.append(part.expand((*shape, states, *step.row_shape)).reshape((*shape, states, count)))
        pairs = []
        for (left, right), inputs in zip(zip(step.latents, step.latents[1:], strict=False), step.pairs, strict=True):
            pair = sum(align(values[i], self.names[i], (*rows, left, right)) for i in inputs)
            assert isinstance(pair, Tensor)
            pairs.append(pair)
        if step.pooled and all(p.data_ptr() == pairs[0].data_ptr() for p in pairs):
            transition = pairs[0].reshape((*pairs[0].shape[:lead], *pairs[0].shape[-2:]))
        else:
            single = all(p.shape[p.dim() - 2 - len(rows) : -2].numel() == 1 for p in pairs)
            inner = (1,) * len(rows) if single else step.row_shape
            flat = [p.expand((*shape, *inner, *p.shape[-2:])).reshape((*shape, -1, *p.shape[-2:])) for p in pairs]
            transition = torch.stack(flat, len(shape))
        prior = parts[0].new_zeros((parts[0].shape[-2], 1))
        smoothed = chain.smooth(prior, transition, lambda: torch.stack(parts, -2))
        return smoothed.log_z.reshape((*shape, *step.row_shape)), smoothed

    def _states(self, values: Sequence[Tensor], step: Chain, latent: str) -> int:
        """Number of states of a latent that nothing touches alone."""
        for inputs in step.pairs:
            for i in inputs:
                if latent in self.names[i]:
                    return values[i].shape[self.names[i].index(latent) - len(self.names[i])]
        raise AssertionError(latent)

    def _chain_back(
        self,
        values: Sequence[Tensor],
        step: Chain,
        smoothed: chain.Smoothed,
        flow: Tensor,
        upper: list[Tensor | None],
        pooled: set[int],
    ) -> None:
        row_flow = flow.reshape((*flow.shape[: flow.dim() - len(step.rows)], 1, -1))
        states = smoothed.states * row_flow.unsqueeze(-3)
        for part, latent, inputs in zip(states.unbind(-2), step.latents, step.unary, strict=True):
            have = part.reshape((*part.shape[:-1], *step.row_shape))
            for i in inputs:
                upper[i] = self._collect(have, (latent, *step.rows), i, values)
        if smoothed.shared:
            alive = self._alive_pairs(step)
            first = step.pairs[0][0]
            total = smoothed.pairs_sum(row_flow if alive is None else row_flow * alive)
            upper[first] = align(total, step.latents[:2], self.names[first])
            pooled.update(i for inputs in step.pairs[1:] for i in inputs)
            return
        each = smoothed.pairs_each() * row_flow[..., None, None]
        each = each.reshape((*each.shape[:-3], *step.row_shape, *each.shape[-2:]))
        for part, inputs, left, right in zip(
            each.unbind(each.dim() - len(step.rows) - 3), step.pairs, step.latents, step.latents[1:], strict=False
        ):
            for i in inputs:
                upper[i] = self._collect(part, (*step.rows, left, right), i, values)

    def _alive_pairs(self, step: Chain) -> Tensor | None:
        """Which rows of every pair enter the weights, `(T - 1, R)`; None if all do."""
        marks = [self.factors[inputs[0]].alive for inputs in step.pairs]
        if all(mark is None for mark in marks):
            return None
        found = []
        for mark in marks:
            part = torch.ones((), dtype=torch.float64) if mark is None else mark.align(step.rows)
            found.append(part.expand(step.row_shape).reshape(-1))
        return torch.stack(found)

    def _sum(self, values: Sequence[Tensor], step: Sum) -> tuple[Tensor, Tensor | None]:
        parts = [align(values[i], self.names[i], step.names) for i in step.inputs]
        product = parts[0]
        for part in parts[1:]:
            product = product + part
        if not step.over:
            return product, None
        axes = tuple(range(-len(step.names), len(step.over) - len(step.names)))
        return log_sum_exp(product, axes, overwrite=len(parts) > 1)

    def _product(self, value: Tensor, step: Product) -> Tensor:
        value = align(value, self.names[step.input], step.names)
        if step.scale is not None:
            value = value * step.scale.align(step.names)
        axes = tuple(i - len(step.names) for i, name in enumerate(step.names) if name in step.over)
        value = value.sum(axes) if axes else value
        return value * step.copies if step.copies != 1 else value

    def _collect(self, flow: Tensor, have: tuple[str, ...], i: int, values: Sequence[Tensor]) -> Tensor:
        """Sum `flow` over the dimensions that value `i` lacks, and give it the dimensions that only it has."""
        want = self.names[i]
        if i < len(self.factors) and self.factors[i].alive is not None:
            flow = flow * self.factors[i].alive.align(have)  # type: ignore[union-attr]
        axes = tuple(j - len(have) for j, name in enumerate(have) if name not in want)
        flow = flow.sum(axes) if axes else flow
        flow = align(flow, [name for name in have if name in want], want)
        return flow if flow.dim() > values[i].dim() else flow.expand_as(values[i])


def log_sum_exp(product: Tensor, axes: tuple[int, ...], *, overwrite: bool = False) -> tuple[Tensor, Tensor]:
    """Return `log sum exp(product)` over `axes` and the normalised weights; all -inf gives -inf and zero weights."""
    top = product.amax(axes, keepdim=True)
    top = torch.where(top == -torch.inf, top.new_zeros(()), top)
    floor = FLOOR[product.dtype]
    weights = product.sub_(top) if overwrite else product - top
    weights = weights.clamp_(min=floor).exp_()
    weights = torch.threshold_(weights, 2 * _exp(floor), 0.0)  # exact zeros stay zero
    total = weights.sum(axes, keepdim=True)
    log_sum = (total.log() + top).squeeze(axes)
    return log_sum, weights.div_(torch.where(total == 0, total.new_ones(()), total))


def _exp(x: float) -> float:
    return 2.718281828459045**x
