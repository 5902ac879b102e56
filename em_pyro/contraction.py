"""Log-sum-product over named factors: log evidence forwards, posterior weights backwards.

The schedule is planned once from names alone (tensor variable elimination: Obermeyer et al. 2019, algorithm 1): innermost
plates first, the latents of a plate are summed out one by one, then the plate is multiplied out into the plates above it.
Run forwards it gives `log Z`; run backwards, by the chain rule written out by hand, it gives `W_s = d log Z / d L_s`, the
exact posterior weight of every factor, with no autograd graph over the data.

Dimensions left of the named ones are batch dimensions (several starts at once).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from .errors import ModelError
from .named import Named, align

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
class Schedule:
    """A planned contraction of `factors`, by position, down to one number per start."""

    factors: tuple[Factor, ...]
    names: tuple[tuple[str, ...], ...]  # dimensions of every value, the inputs first
    steps: tuple[Sum | Product, ...]
    roots: tuple[int, ...]

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Return `log Z`, the value after every step (inputs first), and the normalised weights of every step."""
        values, weights = list(inputs), []
        for step in self.steps:
            if isinstance(step, Sum):
                value, weight = self._sum(values, step)
            else:
                value, weight = self._product(values[step.input], step), None
            values.append(value)
            weights.append(weight)
        return sum((values[root] for root in self.roots), torch.zeros(())), values, weights

    def backward(self, values: Sequence[Tensor], weights: Sequence[Tensor | None]) -> list[Tensor]:
        """Posterior weight of every factor, in its dimensions; rows that are not `alive` are left out."""
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
                flow = flow if weight is None else weight * flow
                for i in step.inputs:
                    upper[i] = self._collect(flow, step.names, i, values)
        return [u if u is not None else torch.ones_like(v) for u, v in zip(upper, values, strict=True)][
            : len(self.factors)
        ]

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
    weights = torch.nn.functional.threshold_(weights, 2 * _exp(floor), 0.0)  # exact zeros stay zero
    total = weights.sum(axes, keepdim=True)
    log_sum = (total.log() + top).squeeze(axes)
    return log_sum, weights.div_(torch.where(total == 0, total.new_ones(()), total))


def _exp(x: float) -> float:
    return 2.718281828459045**x


def plan_contraction(
    factors: Sequence[Factor], owners: Mapping[str, frozenset[str]], sizes: Mapping[str, int]
) -> Schedule:
    """Plan the contraction of `factors`.

    Args:
        factors: in any order.
        owners: for every latent, the plates around its site.
        sizes: of every latent and every plate, in the order in which they should stand in a tensor.

    Raises:
        ModelError: plates cross: a site joins latents of two plates neither of which holds the other.
    """
    names = [factor.names for factor in factors]
    scales = {factor.plates: factor.scale for factor in factors}
    steps: list[Sum | Product] = []
    roots: list[int] = []
    pending: dict[frozenset[str], list[int]] = {}
    for i, factor in enumerate(factors):
        pending.setdefault(factor.plates, []).append(i)

    def ordered(these: set[str]) -> tuple[str, ...]:
        return tuple(name for name in sizes if name in these)

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
            for latent, touched in _elimination(component, names, local, sizes):
                component = [i for i in component if i not in touched]
                component.append(add_sum(touched, (latent,)))
            value = component[0] if len(component) == 1 else add_sum(component, ())
            outer = [name for name in names[value] if name in owners]
            above = frozenset[str]().union(*(owners[latent] for latent in outer))
            if outer and not above < leaf:
                raise ModelError(
                    f'Latent sites {outer}: expected plates that nest, got plates that cross inside {sorted(leaf)}. '
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
