"""Replays of a program at random valid parameter values, and what a gradient reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from .devices import seeded
from .named import Params, unexpand
from .program import Program
from .site import Site

INSIDE = 3.0  # unconstrained coordinates of probabilities from which probes are drawn: a start may lie on the boundary
LONG_PROGRAM = 1000  # sites; beyond it two replays, far apart, and the check at the end of every fit


def draw(program: Program, spread: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random valid values of all parameters, `spread` away from the initial ones in unconstrained space."""
    return {name: transform(point) for name, (transform, point) in _unconstrained(program, spread, generator).items()}


def _unconstrained(program: Program, spread: float, generator: torch.Generator) -> dict[str, tuple[Any, Tensor]]:
    points = {}
    for name, parameter in program.parameters.items():
        transform = transform_to(parameter.constraint)
        centre = transform.inv(parameter.initial)
        centre = torch.where(torch.isfinite(centre), centre, torch.zeros_like(centre))
        if _bounded(parameter.constraint):
            centre = centre.clamp(-INSIDE, INSIDE)
        noise = seeded(torch.randn, centre.shape, generator=generator, dtype=torch.float64)
        points[name] = transform, centre + spread * noise.to(centre)
    return points


def _bounded(constraint: Any) -> bool:
    """Tell whether values near the boundary are all alike: a millionth is next to nothing, and so is one less it."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return isinstance(constraint, (type(constraints.simplex), constraints.interval, constraints.half_open_interval))


def probe(program: Program, k: int, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Replay at a random point; where the model cannot be evaluated there, nearer to its initial values."""
    spread = (0.5, 1.0, 2.0)[k % 3]
    for attempt in range(8):
        values = draw(program, spread * 0.5**attempt, generator)
        try:
            with torch.no_grad():
                return values, program.run(values)
        except (RuntimeError, ValueError):
            if attempt == 7:
                raise
    raise AssertionError


def traced_run(program: Program, values: Params) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Replay with a gradient: leaves are unconstrained values (a module's weights themselves)."""
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
        return leaves, program.run(constrained)


def _tensors(site: Site) -> list[Tensor]:
    """Return every differentiable tensor that a site's density may depend on."""
    found = [site.value]

    def walk(fn: Distribution) -> None:
        for value in vars(fn).values():
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, Distribution):
                walk(value)
            elif isinstance(value, (list, tuple)):
                found.extend(v for v in value if isinstance(v, Tensor))

    walk(site.fn)
    return [unexpand(t) for t in found if t.requires_grad]


def reached(traced: Mapping[str, Site], leaves: Mapping[str, Tensor]) -> dict[str, frozenset[str]]:
    """Return the parameters that each site depends on, by walking the graph of the gradient, each of its nodes once."""
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
        for tensor in _tensors(site):
            if tensor.grad_fn is None:
                parts.append(frozenset({names[id(tensor)]}) if id(tensor) in names else frozenset())
            else:
                parts.append(below(tensor.grad_fn))
        found[name] = frozenset[str]().union(*parts)
    return found
