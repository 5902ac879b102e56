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
from typing import Any

import torch
from torch import Tensor

from . import chain
from .errors import ModelError
from .named import Named, align

CHAIN = 8  # latents from which a chain is run as one

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


class _Underflow(Exception):
    """A scaled recursion lost all its weight; log space does not."""


@dataclass(frozen=True)
class Schedule:
    """A planned contraction of `factors`, by position, down to one number per start."""

    factors: tuple[Factor, ...]
    names: tuple[tuple[str, ...], ...]  # dimensions of every value, the inputs first
    steps: tuple[Sum | Product | Chain, ...]
    roots: tuple[int, ...]
    generic: Schedule | None = field(default=None, repr=False)  # the same without chains

    def contract(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """Return `log Z` and the posterior weight of every factor, in its dimensions.

        Of a pool, one factor has the sum of all weights and the others None.
        """
        try:
            log_z, values, weights = self.forward(inputs)
        except _Underflow:
            assert self.generic is not None
            return self.generic.contract(inputs)
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
                self._chain_back(values, step, *weight, flow, upper, pooled)
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
        generic = None if self.generic is None else self.generic.narrow(plate, start, length)
        return replace(self, factors=factors, steps=steps, generic=generic)

    # ---- chains ----

    def _chain(self, values: Sequence[Tensor], step: Chain) -> tuple[Tensor, Any]:
        last = (step.latents[0],)
        rows, count = step.rows, prod(step.row_shape)
        lead = max(values[i].dim() - len(self.names[i]) for t in (*step.unary, *step.pairs) for i in t)
        shape = torch.broadcast_shapes(*(values[i].shape[:lead] for i in step.pairs[0] + step.unary[0]))
        parts = []
        for latent, inputs in zip(step.latents, step.unary, strict=True):
            last = (latent,)
            part: Tensor | None = None
            for i in inputs:
                found = align(values[i], self.names[i], (*rows, *last))
                part = found if part is None else part + found
            size = values[step.pairs[0][0]].shape[-1] if part is None else part.shape[-1]
            states = self._states(values, step, latent) if part is None else size
            part = values[step.pairs[0][0]].new_zeros(()) if part is None else part
            parts.append(part.expand((*shape, *step.row_shape, states)).reshape((*shape, count, states)))
        unary = torch.stack(parts)
        pairs = []
        for (left, right), inputs in zip(zip(step.latents, step.latents[1:], strict=False), step.pairs, strict=True):
            pair = sum(align(values[i], self.names[i], (*rows, left, right)) for i in inputs)
            assert isinstance(pair, Tensor)
            pairs.append(pair)
        shared = step.pooled and all(p.data_ptr() == pairs[0].data_ptr() for p in pairs)
        if shared:
            pair = pairs[0].reshape((*pairs[0].shape[:lead], *pairs[0].shape[-2:]))
        else:
            single = all(p.shape[p.dim() - 2 - len(rows) : -2].numel() == 1 for p in pairs)
            inner = (1,) * len(rows) if single else step.row_shape
            flat = [p.expand((*shape, *inner, *p.shape[-2:])).reshape((*shape, -1, *p.shape[-2:])) for p in pairs]
            pair = torch.stack(flat)
        passes = chain.forward(unary, pair, shared=shared)
        if not bool(torch.isfinite(passes.log_z).all()):
            raise _Underflow
        return passes.log_z.reshape((*shape, *step.row_shape)), (passes, shared)

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
        passes: chain.Passes,
        shared: bool,  # noqa: FBT001
        flow: Tensor,
        upper: list[Tensor | None],
        pooled: set[int],
    ) -> None:
        smooth, messages = chain.backward(passes, shared=shared)
        states, lead = smooth.shape[-1], smooth.dim() - 3
        row_flow = flow.reshape((*flow.shape[: flow.dim() - len(step.rows)], -1, 1))
        smooth = smooth * row_flow
        for t, (latent, inputs) in enumerate(zip(step.latents, step.unary, strict=True)):
            have = smooth[t].reshape((*smooth.shape[1 : 1 + lead], *step.row_shape, states))
            for i in inputs:
                upper[i] = self._collect(have, (*step.rows, latent), i, values)
        messages = messages * row_flow
        if shared:
            alive = self._alive_pairs(step)
            if alive is not None:
                messages = messages * alive.unsqueeze(-1) if not lead else messages * alive[:, None].unsqueeze(-1)
            first = step.pairs[0][0]
            total = chain.pairs_sum(passes, messages)
            upper[first] = align(total, step.latents[:2], self.names[first])
            pooled.update(i for inputs in step.pairs[1:] for i in inputs)
            return
        each = chain.pairs_each(passes, messages, shared=shared)
        each = each.reshape((*each.shape[: 1 + lead], *step.row_shape, states, states))
        for t, inputs in enumerate(step.pairs):
            for i in inputs:
                upper[i] = self._collect(each[t], (*step.rows, *step.latents[t : t + 2]), i, values)

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
    weights = torch.nn.functional.threshold_(weights, 2 * _exp(floor), 0.0)  # exact zeros stay zero
    total = weights.sum(axes, keepdim=True)
    log_sum = (total.log() + top).squeeze(axes)
    return log_sum, weights.div_(torch.where(total == 0, total.new_ones(()), total))


def _exp(x: float) -> float:
    return 2.718281828459045**x


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
    generic = None
    if any(isinstance(step, Chain) for step in steps):
        generic = plan_contraction(factors, owners, sizes, chains=False)
    return Schedule(tuple(factors), tuple(names), tuple(steps), tuple(roots), generic)


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
