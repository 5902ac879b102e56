"""Which continuous latents are integrated, and not maximised with the parameters.

Normal and MultivariateNormal latents are, if

1. they are in a data plate (`program/survey.py`);
2. a parameter drives a scale of their own law, so that their joint density with it has no bound; or has one where a
   clamp or a prior stops the scale, which says nothing of the spread: these outside of mixtures, and where they can be;
3. their law, or a law that they enter, is that of a latent that is integrated, and they do not multiply it, nor enter
   it through a function that bends;
4. their prior is left out by `mask(False)`, and they enter the value of a site: they are its missing entries;
5. a parameter without a prior multiplies them, as the spread of a non-centred effect or a loading: their joint density
   rises for ever, as the one grows and the others shrink;
6. a positive parameter with a prior does so, or one that enters through a function that bends, as `log_spread.exp()`,
   outside of mixtures: the joint density then has a bound, but where the prior stops that;
7. they are steps of a loop, known by names that differ by a number, most of which are integrated: the first, say, whose
   spread is known;
8. together with the other parameters they take all that is observed with a free scale, outside of mixtures: a Gaussian
   process at the places that were observed, more coefficients than rows. Their joint density with that scale has no
   bound. An observation that a latent which is integrated spreads is none of them.

All others are parameters with a prior. `EM(continuous={"b": "maximise"})`, or "integrate", has the last word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ModelError
from ...program.continuous.local import NORMAL
from ...program.marks import reached, traced_run
from ...program.named import Params, unwrap
from ...program.program import Program
from ...program.site import Site
from ...program.stated import stem
from ..improper import unbounded
from ..priors import dropped
from .degree import sites_of_latents
from .exact_fits import fitting_exactly

LOOP = 4
"""Names that differ by a number, as many as make a loop: fewer may be an intercept and its slopes."""


def to_integrate(program: Program, values: Params, chosen: Mapping[str, str]) -> Mapping[str, str]:
    """Return the latents that are integrated by rules 2 to 8, and those that are already, and why.

    Args:
        program: in which they are still parameters with a prior.
        values: of all parameters.
        chosen: what the user has said of some.
    """
    kinds = {n: p for n, p in program.parameters.items() if p.kind == "prior" and chosen.get(n) != "maximise"}
    if not kinds:
        return program.integrated
    with program.given(values):
        leaves, traced = traced_run(program, values)
        standing = {n: traced[n].value.detach().clone().requires_grad_() for n in program.integrated if n in traced}
        if standing:
            leaves, traced = traced_run(program, values, standing)
        normal = {n for n in kinds if n in traced and type(unwrap(traced[n].fn).base).__name__ in NORMAL}
        if not normal:
            return program.integrated
        found = dict(program.integrated) | _alone(program, values, leaves, traced, normal)
        bent = _bent(program, traced, {name: leaf for name, leaf in leaves.items() if name not in found})
        found |= _spread(program, traced, leaves, normal - found.keys(), bent)
        every, straight = {**leaves, **standing}, normal - bent
        _add_connected(found, straight, traced, every)
        _add_other_steps(found, straight, traced, every)
        plain, mixed = _by_states(program, traced)
        for steps in _held(traced, leaves, normal - found.keys() - _located(mixed, leaves)):
            more = found | steps
            _add_connected(more, straight, traced, every)
            found = more if _can_be(program, values, traced, more) else found
        if not normal - found.keys():
            return found
        spread = {name: leaf for name, leaf in every.items() if name in found}
        factors = frozenset[str]().union(*_factors(plain, every, list(spread)).values())
        located = {name: leaf for name, leaf in leaves.items() if name not in spread.keys() | factors}
        if more := fitting_exactly(program, values, located, plain, normal & located.keys(), spread):
            found |= more
            _add_connected(found, straight, traced, every)
        return found


def _alone(
    program: Program, values: Params, leaves: Mapping[str, Tensor], traced: Mapping[str, Site], normal: set[str]
) -> dict[str, str]:
    """Latents whose own law has no bound, or no density."""
    found = dict[str, str]()
    for bad in unbounded(program, values, leaves, traced):
        if bad.site in normal:
            found.setdefault(bad.site, f'"{bad.parameter}" is its {bad.argument}, and may go to zero')
    for name, site in _missing(traced, leaves, normal).items():
        found.setdefault(name, f'without a prior, inside the value of "{site}": its missing entries')
    return found


def _spread(
    program: Program, traced: Mapping[str, Site], leaves: Mapping[str, Tensor], normal: set[str], bent: frozenset[str]
) -> dict[str, str]:
    """Latents that a parameter without a prior multiplies, or outside of mixtures one that is, or makes, a spread."""
    free = {name for name, p in program.parameters.items() if p.kind != "prior"}
    found = _multiplied(traced, leaves, normal, free, bent)
    why = {name: f'"{by}", which has no prior, multiplies it' for name, by in found.items()}
    plain, mixed = _by_states(program, traced)
    left = normal - found.keys() - _located(mixed, leaves)
    positive = {name for name, p in program.parameters.items() if p.kind == "prior" and _is_positive(p.constraint)}
    found = _multiplied(plain, leaves, left, positive | bent, bent)
    said = {
        name: "which is positive" if name in positive else "through a function that bends" for name in found.values()
    }
    return why | {name: f'"{by}", {said[by]}, multiplies it' for name, by in found.items()}


def _add_other_steps(
    found: dict[str, str], normal: set[str], traced: Mapping[str, Site], leaves: Mapping[str, Tensor]
) -> None:
    """Add steps of loops of which more are integrated than not, but for what multiplies another or is in a scale."""
    loops: dict[str, list[str]] = {}
    for name in sorted(found.keys() | normal):
        loops.setdefault(stem(name), []).append(name)
    some = {loop: [name for name in names if name in found] for loop, names in loops.items()}
    others = {n: some[k][0] for k, names in loops.items() if 2 * len(some[k]) > len(names) >= LOOP for n in names}
    others = {name: first for name, first in others.items() if name not in found}
    if others:
        beside = frozenset[str]().union(*reached(traced, leaves, _scales).values())
        beside = beside.union(*_factors(traced, leaves, [n for n in leaves if n in normal or n in found]).values())
        found |= {name: f'a step of one loop with "{first}"' for name, first in others.items() if name not in beside}
        _add_connected(found, normal, traced, leaves)


def _bent(program: Program, traced: Mapping[str, Site], leaves: Mapping[str, Tensor]) -> frozenset[str]:
    """Real parameters with a prior of which a location is no affine function: never latents of a normal law in it."""
    priors = {name: p for name, p in program.parameters.items() if p.kind == "prior" and name in leaves}
    real = {name: leaves[name] for name, p in priors.items() if _is_real(p.constraint)}
    slopes = _slopes(traced, real, list(real)) if real else {}
    return frozenset(name for name, inside in reached(slopes, real, lambda slope: [slope]).items() if name in inside)


def _held(traced: Mapping[str, Site], leaves: Mapping[str, Tensor], normal: set[str]) -> list[dict[str, str]]:
    """Latents with a scale that a parameter drives, the steps of a loop together, and why they are integrated."""
    found: dict[str, dict[str, str]] = {}
    for name, names in reached({name: traced[name] for name in sorted(normal)}, leaves, _scales).items():
        if names and not dropped(traced[name]):
            found.setdefault(stem(name), {})[name] = f'"{min(names)}" drives its scale'
    return list(found.values())


def _can_be(program: Program, values: Params, traced: Mapping[str, Site], latents: Collection[str]) -> bool:
    """Tell whether the rest of a program is linear and normal in some latents."""
    try:
        sites_of_latents(program, values, {name: traced[name].value.detach().clone() for name in latents})
    except ModelError:
        return False
    return True


def _located(traced: Mapping[str, Site], leaves: Mapping[str, Tensor]) -> frozenset[str]:
    """All that enters the locations of some sites."""
    return frozenset[str]().union(*reached(traced, leaves, _locations).values())


def _by_states(program: Program, traced: Mapping[str, Site]) -> tuple[dict[str, Site], dict[str, Site]]:
    """Split sites into those without discrete latents upstream, and those with some."""
    mixed = {name: site for name, site in traced.items() if program.upstream.get(name)}
    return {name: site for name, site in traced.items() if name not in mixed}, mixed


def _is_real(constraint: Any) -> bool:
    """Whether all numbers are values."""
    return _of_entries(constraint) is constraints.real


def _of_entries(constraint: Any) -> Any:
    """Return what a constraint says of each entry."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _is_positive(constraint: Any) -> bool:
    """Whether all values are positive, or zero at least."""
    low = getattr(_of_entries(constraint), "lower_bound", None)
    return low is not None and bool((torch.as_tensor(low) >= 0).all())


def _missing(traced: Mapping[str, Site], leaves: Mapping[str, Tensor], normal: set[str]) -> dict[str, str]:
    """Latents without a density that enter the value of an observed site, and that site."""
    flat = {name for name in normal if dropped(traced[name])}
    observed = {n: site for n, site in traced.items() if site.role == "observed" and site.value.requires_grad}
    inside = reached(observed, leaves, lambda site: [site.value]) if flat and observed else {}
    return {name: site for site, names in inside.items() for name in sorted(names & flat)}


def _multiplied(
    traced: Mapping[str, Site],
    leaves: Mapping[str, Tensor],
    normal: set[str],
    spreads: AbstractSet[str],
    bent: frozenset[str],
) -> dict[str, str]:
    """Latents of which a location is a multiple, with the parameter that is the factor; no products of latents."""
    moved = _slopes(traced, leaves, [name for name in leaves if name in normal], spreads)
    factors, latents = reached(moved, leaves, lambda slope: [slope]), normal - bent
    return {
        n: min(inside & spreads)
        for n, inside in factors.items()
        if inside & spreads and n not in inside and not inside & latents
    }


def _slopes(
    traced: Mapping[str, Site],
    leaves: Mapping[str, Tensor],
    latents: Sequence[str],
    beside: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Return by what each of some latents is multiplied in the locations of sites, where that is no constant.

    Args:
        traced: the sites.
        leaves: all parameters and latents.
        latents: which are asked for.
        beside: parameters of which a location has one, to be looked at; None looks at all locations.
    """
    located = {name: site for name, site in traced.items() if type(unwrap(site.fn).base).__name__ in NORMAL}
    inside = reached(located, leaves, _locations)
    both = [
        n for n, names in inside.items() if names & set(latents) and (beside is None or not names.isdisjoint(beside))
    ]
    if not both:
        return {}
    with torch.enable_grad():
        total = torch.stack([_weighed(located[name]) for name in both]).sum()
        slopes = torch.autograd.grad(total, [leaves[n] for n in latents], create_graph=True, allow_unused=True)
    return {n: slope for n, slope in zip(latents, slopes, strict=True) if slope is not None and slope.requires_grad}


def _weighed(site: Site) -> Tensor:
    """Return the sum of a location, no two entries of which count alike: none cancels another."""
    (loc,) = _locations(site)
    return (loc * torch.linspace(1.0, 2.0, loc.numel(), dtype=loc.dtype, device=loc.device).reshape(loc.shape)).sum()


def _add_connected(
    found: dict[str, str], normal: set[str], traced: Mapping[str, Site], leaves: Mapping[str, Tensor]
) -> None:
    """Add the latents in whose laws these are, and those that are in theirs; but none that is part of a scale."""
    if not found:
        return
    scales = frozenset[str]().union(*reached(traced, leaves, _scales).values())
    inside = reached({n: traced[n] for n in traced if n in normal or n in found}, leaves, _locations)
    meets: dict[str, dict[str, str]] = {name: {} for name in (*normal, *found)}
    for name, entering in inside.items():
        for other in sorted((entering - scales - {name}) & meets.keys()):
            meets[name][other] = f'part of the law of "{name}"'
            meets[other][name] = f'"{other}" is part of its law'
    others = {other for near in meets.values() for other in near} - found.keys() - scales
    factors = _factors(traced, leaves, [name for name in leaves if name in others])
    waiting = list(found)
    while waiting:
        for other, why in meets[waiting.pop()].items():
            if other in others and other not in found and not factors.get(other, frozenset()) & found.keys():
                found[other] = why
                waiting.append(other)


def _factors(
    traced: Mapping[str, Site], leaves: Mapping[str, Tensor], latents: Sequence[str]
) -> dict[str, frozenset[str]]:
    """Return what multiplies each of some latents in a location: a matrix that moves states is no part of their law."""
    return reached(_slopes(traced, leaves, latents), leaves, lambda slope: [slope])


def _locations(site: Site) -> list[Tensor]:
    base = unwrap(site.fn).base
    return [base.loc] if hasattr(base, "loc") else []


def _scales(site: Site) -> list[Tensor]:
    """Every argument of a distribution that is not its location."""
    parts = vars(unwrap(site.fn).base).items()
    return [part for key, part in parts if isinstance(part, Tensor) and key not in ("loc", "v")]


def as_parameter(latent: str) -> str:
    """Say how a latent whose integral would be too large is maximised instead."""
    return (
        f'Let "{latent}" be a parameter with a prior of known scale, by EM(continuous={{"{latent}": "maximise"}}), '
        f"and if that scale is a parameter, keep it fixed by m_step."
    )
