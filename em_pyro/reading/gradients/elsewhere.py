"""Other points at which a program is looked at: around its start a parameter may be without effect."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from ...families.charts import domain_of
from ...program.changes.lost import arguments_of
from ...program.devices import seeded
from ...program.marks import traced_run
from ...program.named import unexpand
from ...program.program import Program
from ...program.site import Parameter, Site
from ...program.unroll import unroll
from ..reading import Recognition
from .claims import disagreeing

SATURATED = 8.0  # size of a real entry from which a sigmoid, a tanh or a softplus may hide it
WIDTHS = (1.0, 4.0, 0.1, 30.0, 1e-3, 1e-6, 1e-9, 1e-12)  # of the points looked at, in unconstrained coordinates
"""The small ones are for covariates in a small unit, of which a coefficient of one saturates every row."""
MANY = 1000  # sites beyond which nothing is looked at twice


def elsewhere(program: Program, found: Recognition) -> dict[str, Tensor]:
    """Return other values of the parameters that move a site there and are not in its map; nothing if all are.

    A logit of 40, a log-rate of -800 and a value beyond a clamp move nothing within reach of the start. The graph of
    the gradient knows that they enter a site; and so does the gradient itself, at a point where they are small.

    Args:
        program: what was read.
        found: what was read of it, around its start.
    """
    names = _still(program, found) | _large(program)
    if not names or len(program.upstream) > MANY:
        return {}
    generator = torch.Generator().manual_seed(2)
    for width in WIDTHS:
        values = dict(found.values)
        for name in sorted(names):
            values[name] = _drawn(program.parameters[name], width, generator)
        apart = _apart(program, found, values) & names
        if apart:
            return {name: values[name] for name in apart}
    return {}


def _still(program: Program, found: Recognition) -> set[str]:
    """Parameters that the graph of the gradient leads to from a site which does not change with them."""
    names = set[str]().union(*(found.reaches.get(n, frozenset()) - r.parameters for n, r in found.readings.items()))
    return {name for name in names if _may_move(program.parameters[name])}


def _large(program: Program) -> set[str]:
    """Real parameters with an entry so large that it may be saturated, whatever the others are."""
    return {
        name
        for name, parameter in program.parameters.items()
        if _may_move(parameter)
        and domain_of(parameter.constraint) == "real"
        and bool((parameter.initial.detach().abs() > SATURATED).any())
    }


def _may_move(parameter: Parameter) -> bool:
    return parameter.tensor is None and parameter.initial.is_floating_point() and bool(parameter.initial.numel())


def _drawn(parameter: Parameter, width: float, generator: torch.Generator) -> Tensor:
    """Draw a value around the middle of what the constraint allows."""
    transform = transform_to(parameter.constraint)
    middle = transform.inv(parameter.initial.detach().double())
    noise = seeded(torch.randn, middle.shape, generator=generator, dtype=torch.float64).to(middle.device)
    value: Tensor = transform(width * noise)
    if isinstance(parameter.constraint, type(constraints.nonnegative)):
        value = value.abs()
    return value.to(parameter.initial.dtype)


def _apart(program: Program, found: Recognition, values: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the parameters in which some argument has another gradient at `values` than its map claims."""
    with program.given(values):
        try:
            leaves, run = traced_run(program, values)
        except (RuntimeError, ValueError):  # the model has no value there
            return frozenset()
        sites = unroll(run)
        readings = {n: r for n, r in found.readings.items() if n not in found.refusals and _finite(sites[n])}
        wrong = disagreeing(program, leaves, sites, readings, found.bank)
    return frozenset[str]().union(*wrong.values())


def _finite(site: Site) -> bool:
    return all(bool(torch.isfinite(unexpand(argument)).all()) for _, argument in arguments_of(site.fn))
