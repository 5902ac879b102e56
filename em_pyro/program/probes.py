"""Replays of a program at random valid parameter values, and what a gradient reaches.

A probe moves an entry in proportion to what it is measured in: a positive one by a factor, a real one by a part of the
size of its parameter or of the spread of the data, so that a change of units is no change of the probes. What would
move a density out of the numbers (a coefficient of a covariate in thousands, under `exp`) is moved less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from .devices import seeded
from .named import SLICE, Params, unexpand
from .program import Program
from .site import Parameter, Site

INSIDE = 3.0  # unconstrained coordinates of probabilities from which probes are drawn: a start may lie on the boundary
LONG_PROGRAM = 1000  # sites; beyond it two replays, far apart, and the check at the end of every fit
SPREADS = (0.5, 1.0, 2.0)  # of the probes, in the units of every entry
LARGE = 100.0  # size of a real parameter from which it is no logit
FINEST = 1e-6  # of the size of a parameter: the least that is a move
ATTEMPTS, STEPS = 8, 12  # at a probe; and at how far a single parameter may move
STEP = 1 / 8

Sizes = Mapping[str, tuple[float, float]]
"""How far the entries of real parameters (and the real coordinates of others) are moved, at even and at odd probes."""
Counts = dict[tuple[str, str], int]  # usable entries of arguments in the first run, by site: counted once


def probes(
    program: Program, count: int, first: Mapping[str, Site], generator: torch.Generator
) -> list[tuple[dict[str, Tensor], dict[str, Site]]]:
    """Replay at random points; where the model cannot be evaluated there, nearer to its initial values.

    Args:
        program: what is run.
        count: how many replays.
        first: the program at its initial values: a probe loses no entry of an argument that is finite there.
        generator: of the moves.
    """
    sizes = _sizes(program, first)
    found, bounded, strict, counts = [], False, True, dict[tuple[str, str], int]()
    for k in range(count):
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            reverse = k % 2 == 1 and attempt == 0
            values = _draw(program, sizes, k, SPREADS[k % 3] * 0.5**attempt, generator, reverse=reverse)
            try:
                with torch.no_grad():
                    run = program.run(values)
            except (RuntimeError, ValueError):
                if last:
                    raise
                continue
            if not strict or not _lost(run, first, counts):
                break
            if not bounded and not reverse:
                sizes, bounded = _within_reach(program, sizes, first, counts, generator), True
            strict = not last
        found.append((values, run))
    return found


def _draw(
    program: Program, sizes: Sizes, k: int, spread: float, generator: torch.Generator, *, reverse: bool
) -> dict[str, Tensor]:
    """Return random valid values of all parameters for probe `k`, `spread` times their units from the initial ones.

    `reverse` turns the order of real entries round first: what sorts them, or takes the largest, is found out.
    """
    return {n: _moved(p, sizes[n][k % 2], spread, generator, reverse=reverse) for n, p in program.parameters.items()}


def _moved(
    parameter: Parameter, size: float, spread: float, generator: torch.Generator, *, reverse: bool = False
) -> Tensor:
    """Return one parameter at a random point: positive entries times a factor, real ones plus a part of `size`."""
    value, constraint = parameter.initial, _base(parameter.constraint)
    if not value.is_floating_point():
        return value

    def noise(shape: torch.Size) -> Tensor:
        return spread * seeded(torch.randn, shape, generator=generator, dtype=torch.float64).to(value.device)

    start = value.double()
    if isinstance(constraint, type(constraints.real)):
        start = start.flip(0) if reverse and start.dim() else start
        moved = torch.where(torch.isfinite(start), start, 0.0) + size * noise(start.shape)
    elif _positive(constraint):
        moved = torch.where(torch.isfinite(start) & (start > 0), start, 1.0) * noise(start.shape).exp()
    elif isinstance(constraint, type(constraints.lower_cholesky)):
        moved = _scaled(start, noise(start.shape))
    elif isinstance(constraint, type(constraints.positive_definite)):
        factor = _scaled(torch.linalg.cholesky(start), noise(start.shape))
        moved = factor @ factor.mT
    else:
        transform = transform_to(parameter.constraint)
        centre = transform.inv(start)
        centre = torch.where(torch.isfinite(centre), centre, 0.0)
        centre = centre.clamp(-INSIDE, INSIDE) if _bounded(constraint) else centre
        moves = noise(centre.shape)
        if isinstance(constraint, type(pyro_constraints.ordered_vector)):
            moves[..., 0] *= size
        moved = transform(centre + moves)
    return moved.to(value.dtype)


def _scaled(factor: Tensor, noise: Tensor) -> Tensor:
    """Return a Cholesky factor with other scales, and with other correlations."""
    size = factor.square().sum(-1, keepdim=True).sqrt()
    size = torch.where(size > 0, size, 1.0)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    diagonal = torch.where(diagonal > 0, diagonal, size.squeeze(-1)) * noise.diagonal(dim1=-2, dim2=-1).exp()
    return torch.tril(factor + size * noise, -1) + torch.diag_embed(diagonal)


def _base(constraint: Any) -> Any:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _positive(constraint: Any) -> bool:
    kinds = (type(constraints.positive), type(constraints.nonnegative))
    return isinstance(constraint, kinds) and bool((torch.as_tensor(constraint.lower_bound) == 0).all())


def _bounded(constraint: Any) -> bool:
    """Tell whether values near the boundary are all alike: a millionth is next to nothing, and so is one less it."""
    return isinstance(constraint, (type(constraints.simplex), constraints.interval, constraints.half_open_interval))


# ---- how far ---------------------------------------------------------------------------------------------------------


def _sizes(program: Program, first: Mapping[str, Site]) -> Sizes:
    """Return the units of all parameters: at even probes by their own size and the least spread of the data.

    At odd probes the unit is one, which is what logits and coefficients of standardised covariates are measured in, or
    the size of a parameter that is too large for these.
    """
    spreads = [spread for site in first.values() if site.role == "observed" and (spread := _spread(site)) > 0]
    spread = min(spreads, default=1.0)
    sizes = {}
    for name, parameter in program.parameters.items():
        value = parameter.initial.detach().double().abs()
        own = float(value[torch.isfinite(value)].amax()) if bool(torch.isfinite(value).any()) else 0.0
        far = max(own, min(spread, 3 * own)) if own > LARGE else 1.0
        sizes[name] = (max(min(own, spread), FINEST * own), far) if own > 0 else (1.0, 1.0)
    return sizes


def _spread(site: Site) -> float:
    """Return the standard deviation of a site's values, of some rows where there are many; zero if it has none."""
    value = site.value.detach()
    if not value.is_floating_point() or not value.numel():
        return 0.0
    rows = value.reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
    rows = rows[:: max(1, len(rows) // SLICE)].double()
    rows = torch.where(torch.isfinite(rows), rows, torch.nan)
    spread = (rows - rows.nanmean(0)).square().nanmean(0).sqrt()
    spread = spread[torch.isfinite(spread) & (spread > 0)]
    return float(spread.amin()) if spread.numel() else 0.0


def _within_reach(
    program: Program, sizes: Sizes, first: Mapping[str, Site], counts: Counts, generator: torch.Generator
) -> Sizes:
    """Shrink the move of every real parameter, by itself, until no argument is lost."""
    initial = {name: parameter.initial for name, parameter in program.parameters.items()}
    found = dict(sizes)
    for name, parameter in program.parameters.items():
        if not isinstance(_base(parameter.constraint), type(constraints.real)) or not parameter.initial.numel():
            continue
        largest = max(sizes[name])
        for step in range(STEPS):
            size = largest * STEP**step
            moved = {name: _moved(parameter, size, SPREADS[-1], generator)}
            try:
                with torch.no_grad():
                    fine = not _lost(program.run({**initial, **moved}), first, counts)
            except (RuntimeError, ValueError):
                fine = False
            if fine:
                found[name] = min(sizes[name][0], size), min(sizes[name][1], size)
                break
    return found


def _lost(run: Mapping[str, Site], first: Mapping[str, Site], counts: Counts) -> bool:
    """Tell whether an argument is no longer finite, or a rate or probability has become zero, where it was not."""
    for name in run.keys() & first.keys():
        before = dict(_arguments(first[name].fn))
        for key, tensor in _arguments(run[name].fn):
            if key in before and tensor.data_ptr() != before[key].data_ptr():
                if (name, key) not in counts:
                    counts[name, key] = _usable(key, before[key])
                if _usable(key, tensor) < counts[name, key]:
                    return True
    return False


def _usable(key: str, tensor: Tensor) -> int:
    """Count the entries that are finite, and not zero where only a real argument may be."""
    tensor = unexpand(tensor)
    usable = torch.isfinite(tensor)
    return int((usable if key.endswith(("loc", "logits", "_param")) else usable & (tensor != 0)).sum())


def _arguments(fn: Distribution, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every floating tensor inside a distribution, by its place there."""
    for key, value in vars(fn).items():
        if isinstance(value, Distribution):
            yield from _arguments(value, f"{prefix}{key}.")
            continue
        parts: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        for part in parts:
            if isinstance(part, Tensor) and part.is_floating_point():
                yield f"{prefix}{key}", part


def traced_run(
    program: Program, values: Params, latents: Params | None = None
) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Replay with a gradient, `latents` integrated: leaves are unconstrained values (a module's weights themselves)."""
    leaves, constrained = {}, {}
    for name, value in values.items():
        parameter = program.parameters[name]
        if parameter.tensor is not None:
            leaves[name], constrained[name] = parameter.tensor, value
            continue
        transform = transform_to(parameter.constraint)
        leaves[name] = transform.inv(value).detach().requires_grad_()
        constrained[name] = transform(leaves[name])
    with torch.enable_grad():
        return leaves, program.run(constrained, latents)


def tensors_of(site: Site) -> list[Tensor]:
    """Return every floating tensor that a site's density may depend on."""
    return [site.value, *(tensor for _, tensor in _arguments(site.fn))]


def reached(traced: Mapping[str, Site], leaves: Mapping[str, Tensor], of: Any = None) -> dict[str, frozenset[str]]:
    """Return the parameters that each site (what `of` takes of it) depends on: each node of the graph is met once."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    known: dict[Any, frozenset[str]] = {}  # the nodes are kept: their identity is that of the Python object

    def below(root: Any) -> frozenset[str]:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            inputs = [parent for parent, _ in node.next_functions if parent is not None]
            waiting = [parent for parent in inputs if parent not in known]
            if waiting:
                stack.extend(waiting)
                continue
            leaf = getattr(node, "variable", None)  # of a node that accumulates a gradient
            own = frozenset({names[id(leaf)]}) if leaf is not None and id(leaf) in names else frozenset()
            known[node] = own.union(*(known[parent] for parent in inputs))
            stack.pop()
        return known[root]

    found = {}
    for name, site in traced.items():
        parts = []
        for tensor in (unexpand(t) for t in (of or tensors_of)(site) if t.requires_grad):
            if tensor.grad_fn is None:
                parts.append(frozenset({names[id(tensor)]}) if id(tensor) in names else frozenset())
            else:
                parts.append(below(tensor.grad_fn))
        found[name] = frozenset[str]().union(*parts)
    return found


def not_fitted(traced: Mapping[str, Site], leaves: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the sites that depend on a tensor which takes a gradient and is no parameter, with the shape of one."""
    own, met = {id(leaf) for leaf in leaves.values()}, set[Any]()
    tensors = [unexpand(t) for site in traced.values() for t in tensors_of(site) if t.requires_grad]
    stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    ends = [tensor for tensor in tensors if tensor.grad_fn is None]
    while stack:
        node = stack.pop()
        ends += [node.variable] if hasattr(node, "variable") else []
        inputs = [parent for parent, _ in node.next_functions if parent is not None and parent not in met]
        met.update(inputs)
        stack += inputs
    found = {f"{k}": leaf for k, leaf in enumerate(ends) if id(leaf) not in own}
    sites = reached(traced, found) if found else {}
    return {name: tuple(found[min(keys)].shape) for name, keys in sites.items() if keys}
