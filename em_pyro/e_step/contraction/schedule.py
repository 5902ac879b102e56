"""Log-sum-product over named factors: log evidence forwards, posterior weights backwards.

The schedule is planned once from names alone (tensor variable elimination: Obermeyer et al. 2019, algorithm 1):
innermost plates first, the latents of a plate are summed out one by one, then the plate is multiplied out into the
plates above it. Run forwards it gives `log Z`; run backwards, by the chain rule written out by hand, it gives `W_s = d
log Z / d L_s`, the exact posterior weight of every factor, with no autograd graph over the data.

Dimensions left of the named ones are batch dimensions (several starts at once).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import field, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ...program.named import Named, align
from ...records.frozen import frozen
from .softmax import FLOOR, SMALLEST


@frozen
class Factor:
    """What a schedule needs to know of one factor."""

    name: str
    names: tuple[str, ...]  # its dimensions: latents and plates
    plates: frozenset[str]  # the plates around its site, whether it has their dimension or not
    scale: Named | None = field(default=None, repr=False)  # exponent of each row; None is one
    alive: Named | None = field(default=None, repr=False)  # rows that enter the weights; None is all


@frozen
class Sum:
    """Multiply the inputs and sum out the latents `over` (none: only multiply)."""

    inputs: tuple[int, ...]
    over: tuple[str, ...]
    names: tuple[str, ...]  # dimensions of the product: `over`, then what is left
    output: int


@frozen
class Product:
    """Multiply one input over the plates `over`, each row raised to the power `scale`."""

    input: int
    over: tuple[str, ...]
    names: tuple[str, ...]  # dimensions of the input and of the scale
    missing: tuple[tuple[str, int], ...]  # plates of `over` on which neither depends, with their sizes
    scale: Named | None
    output: int

    @cached_property
    def absent(self) -> bool:
        """Whether some rows count for nothing, be they impossible."""
        return self.scale is not None and not bool((self.scale.tensor != 0).all())

    @property
    def copies(self) -> int:
        """How often a row of the input occurs."""
        return prod(size for _, size in self.missing)


@frozen
class Schedule:
    """A planned contraction of `factors`, by position, down to one number per start."""

    factors: tuple[Factor, ...]
    names: tuple[tuple[str, ...], ...]  # dimensions of every value, the inputs first
    steps: tuple[Sum | Product, ...]
    roots: tuple[int, ...]

    def contract(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return `log Z` and the posterior weight of every factor, in its dimensions."""
        log_z, values, weights = self.forward(inputs)
        return log_z, self.backward(values, weights)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Return `log Z`, the value after every step (inputs first), and the normalised weights of every step."""
        values, weights = list(inputs), list[Tensor | None]()
        for step in self.steps:
            value: Tensor
            weight: Tensor | None
            if isinstance(step, Sum):
                value, weight = self._sum(values, step)
            else:
                value, weight = self._product(values[step.input], step), None
            values.append(value)
            weights.append(weight)
        return sum((values[root] for root in self.roots), torch.zeros(1)), values, weights

    def backward(self, values: Sequence[Tensor], weights: Sequence[Tensor | None]) -> list[Tensor]:
        """Posterior weight of every factor, in its dimensions; rows that are not `alive` are left out."""
        return self._backward(values, weights, lambda weight, flow: None)

    def entropy(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the posterior entropy of all latents that are summed out, in nats, and the weight of every factor.

        It is summed as the latents are: `H = sum_k E H(z_k | latents that are summed out later)`, which no evidence
        cancels from. Rows count as often as their scale says.
        """
        _, values, weights = self.forward(inputs)
        parts = list[Tensor]()

        def add(weight: Tensor, flow: Tensor) -> None:
            parts.append(-(torch.special.xlogy(weight, weight) * flow).sum())

        found = self._backward(values, weights, add)
        return sum(parts, torch.zeros((), dtype=torch.float64)), found

    def _backward(
        self,
        values: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        visit: Callable[[Tensor, Tensor], None],
    ) -> list[Tensor]:
        """Go back through the steps; each sum is visited with its normalised weights and what flows into it."""
        upper: list[Tensor | None] = [None] * len(values)
        for root in self.roots:
            upper[root] = torch.ones_like(values[root])
        for step, weight in zip(reversed(self.steps), reversed(weights), strict=True):
            flow = upper[step.output]
            assert flow is not None
            rest = tuple(name for name in step.names if name not in step.over)
            flow = align(flow, rest, step.names)
            if isinstance(step, Product):
                flow = flow * step.copies if step.copies != 1 else flow
                flow = flow if step.scale is None else flow * step.scale.align(step.names)
                upper[step.input] = self._collect(flow, step.names, step.input, values)
            else:
                if weight is not None:
                    visit(weight, flow)
                    flow = weight * flow
                for i in step.inputs:
                    upper[i] = self._collect(flow, step.names, i, values)
        found = zip(upper[: len(self.factors)], values, strict=False)
        return [torch.ones_like(value) if weight is None else weight for weight, value in found]

    @property
    def products(self) -> tuple[Product, ...]:
        """The steps that multiply plates out."""
        return tuple(step for step in self.steps if isinstance(step, Product))

    def eliminations(self, inputs: Sequence[Tensor], *, largest: bool) -> list[Tensor]:
        """Log-weights of the states of every latent as it is summed out, given those eliminated after it.

        Args:
            inputs: log-factors of one start.
            largest: whether latents are maximised out, not summed.
        """
        values, found = list(inputs), list[Tensor]()
        for step in self.steps:
            if isinstance(step, Sum):
                parts = (align(values[i], self.names[i], step.names) for i in step.inputs)
                value = sum(parts, torch.zeros(()))
                axes = tuple(range(len(step.over)))
                if axes:
                    found.append(value)
                reduce = value.amax if largest else value.logsumexp
                values.append(reduce(axes) if axes else value)
            else:
                values.append(self._product(values[step.input], step))
        return found

    def chosen(
        self, eliminated: Sequence[Tensor], pick: Callable[[Tensor], Tensor], latents: Collection[str]
    ) -> dict[str, Named]:
        """Choose states backwards through the elimination, each latent given those eliminated after it.

        Args:
            eliminated: what `eliminations` has found.
            pick: from log-weights (1 or choices, states, plates) to the index of a state, (choices, plates).
            latents: which names are no plates.

        Returns:
            The index of the state of every latent that is summed out: choices, then its plates.
        """
        found: dict[str, Named] = {}
        steps = [step for step in self.steps if isinstance(step, Sum) and step.over]
        for step, weights in zip(reversed(steps), reversed(eliminated), strict=True):
            others = [n for n in step.names[1:] if n in latents]
            plates = tuple(n for n in step.names[1:] if n not in latents)
            left = _given(
                align(weights, step.names, (*others, step.over[0], *plates)), [found[n] for n in others], plates
            )
            found[step.over[0]] = Named(pick(left), plates)
        return found

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
        return replace(self, factors=factors, steps=steps)

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
            scale = step.scale.align(step.names)
            value = torch.where(scale == 0, 0.0, value * scale) if step.absent else value * scale
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


def _given(weights: Tensor, chosen: Sequence[Named], plates: tuple[str, ...]) -> Tensor:
    """Select the chosen states of the first latents, row by row: from (others, states, plates) to (choices, ...)."""
    if not chosen:
        return weights.unsqueeze(0)
    place = torch.zeros((), dtype=torch.long, device=weights.device)
    for size, other in zip(weights.shape, chosen, strict=False):
        place = place * size + align(other.tensor, other.names, plates)
    table = weights.flatten(0, len(chosen) - 1)
    return table.gather(0, place.unsqueeze(1).expand(len(place), *table.shape[1:]))


def log_sum_exp(product: Tensor, axes: tuple[int, ...], *, overwrite: bool) -> tuple[Tensor, Tensor]:
    """Return `log sum exp(product)` over `axes` and the normalised weights; all -inf gives -inf and zero weights."""
    top = product.amax(axes, keepdim=True)
    top = torch.where(top == -torch.inf, top.new_zeros(()), top)
    floor = FLOOR[product.dtype]
    weights = product.sub_(top) if overwrite else product - top
    weights = weights.clamp_(min=floor).exp_()
    weights = torch.threshold_(weights, SMALLEST[product.dtype], 0.0)  # exact zeros stay zero
    total = weights.sum(axes, keepdim=True)
    log_sum = (total.log() + top).squeeze(axes)
    return log_sum, weights.div_(torch.where(total == 0, total.new_ones(()), total))
