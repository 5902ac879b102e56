"""Sites with a prior that have no joint maximum: their scale is free as well, or they stand for missing values."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import transform_to

from ..errors import ModelError
from ..program.coordinates import FAR
from ..program.marks import reached
from ..program.named import Params, unwrap
from ..program.program import Program
from ..program.site import Site
from ..records.frozen import frozen
from .priors import dropped

SHRINKING = ("scale", "scale_tril", "covariance_matrix", "cov_factor", "cov_diag")  # the density grows as they go to 0
GROWING = ("precision_matrix", "concentration", "concentration1", "concentration0", "rate")  # as these go to infinity
MATRICES = ("scale_tril", "covariance_matrix", "cov_factor", "precision_matrix")

# Tails that fall faster than any power, by which a prior holds what it is of back from an end of its support.
HELD = {
    "lower": frozenset({"LogNormal", "InverseGamma", "Normal"}),
    "upper": frozenset({"LogNormal", "Gamma", "Exponential", "HalfNormal", "Weibull", "Normal", "Chi2"}),
}
NARROW = 1e-8  # a scale that shrinks by less is held by its bounds


@frozen
class Unbounded:
    """An argument of a prior by which the joint density has no bound.

    Attributes:
        site: that has the prior.
        argument: of its distribution.
        parameter: that enters the argument.
        shrinking: whether the density grows as the argument goes to zero; else to infinity.
    """

    site: str
    argument: str
    parameter: str
    shrinking: bool

    def refusal(self) -> ModelError:
        """Return the error that says so."""
        end = "to zero" if self.shrinking else "to infinity"
        return ModelError(
            f'Site "{self.site}": expected a prior of known {self.argument}, got one that the parameter '
            f'"{self.parameter}" enters. As it goes {end}, the values of "{self.site}" draw together and their joint '
            f'density has no bound. Give "{self.parameter}" a known value (m_step={{"{self.parameter}": "fixed"}}) or '
            f'bounds, or integrate "{self.site}": a marginal density, dist.GaussianHMM or em_pyro.quadrature.'
        )


def unbounded(
    program: Program, values: Params, leaves: Mapping[str, Tensor], traced: Mapping[str, Site]
) -> tuple[Unbounded, ...]:
    """Name the scale-like arguments of priors that a parameter may drive to where the density has no bound.

    Args:
        program: what was run.
        values: of its parameters.
        leaves: their unconstrained values, from which `traced` was computed.
        traced: the sites, with their gradients.
    """
    priors = {name: site for name, site in traced.items() if site.role == "prior" and not dropped(site)}
    return tuple(_driven(program, values, leaves, traced, priors))


def vanishing(
    program: Program,
    values: Params,
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
    observed: Mapping[str, Site],
) -> dict[str, dict[str, Site]]:
    """Name the parameters that may drive the scales of observed sites to zero, with these sites; others as above."""
    found: dict[str, dict[str, Site]] = {}
    for one in _driven(program, values, leaves, traced, observed):
        found.setdefault(one.parameter, {})[one.site] = observed[one.site]
    return found


def _driven(
    program: Program,
    values: Params,
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
    sites: Mapping[str, Site],
) -> Iterator[Unbounded]:
    """The scale-like arguments of some sites that a parameter may drive to where the density has no bound."""
    moved, known = dict[tuple[str, str], dict[str, Site]](), dict[Hashable, dict[str, Tensor]]()
    order = {name: k for k, name in enumerate(leaves)}
    entering = reached(sites, leaves, lambda site: [tensor for _, tensor in _arguments(site)])
    for site in sites.values():
        if entering[site.name]:
            inside = {name: leaves[name] for name in sorted(entering[site.name], key=order.__getitem__)}
            for argument, tensor in _arguments(site):
                shrinking = (
                    argument in SHRINKING or isinstance(unwrap(site.fn).base, dist.InverseGamma) and argument == "rate"
                )
                if (same := _place(tensor)) not in known:  # the steps of a loop have one scale
                    known[same] = _slopes(tensor, inside)
                for name, slope in known[same].items():
                    end = "lower" if bool((slope > 0).any()) == shrinking else "upper"
                    if name != site.name and not _held(program, traced, name, end):
                        if _reaches(program, values, site, argument, name, end, moved, shrinking=shrinking):
                            yield Unbounded(site.name, argument, name, shrinking)


def _arguments(site: Site) -> Iterator[tuple[str, Tensor]]:
    """Yield the scale-like arguments of a prior that carry a gradient."""
    base = unwrap(site.fn).base
    given = [key for key in vars(base) if key in MATRICES]  # of the forms of one covariance, the one that was given
    for key in SHRINKING + GROWING:
        tensor = getattr(base, key, None) if key not in MATRICES or key in given else None
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            yield key, tensor


def _place(tensor: Tensor) -> Hashable:
    """What tells a tensor from others, and is the same of all its views that are alike."""
    held = tensor if tensor._base is None else tensor._base
    return id(held), tensor.shape, tensor.stride(), tensor.storage_offset()


def _slopes(tensor: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of the sum of a tensor by the parameters that enter it."""
    found = torch.autograd.grad(tensor.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
    return {name: slope for name, slope in zip(leaves, found, strict=True) if slope is not None and bool(slope.any())}


def _held(program: Program, traced: Mapping[str, Site], name: str, end: str) -> bool:
    """Tell whether a prior of its own keeps a parameter from an end of its support."""
    if program.parameters[name].kind != "prior":
        return False
    site = traced[name]
    return not dropped(site) and type(unwrap(site.fn).base).__name__ in HELD[end]


def _reaches(
    program: Program,
    values: Params,
    site: Site,
    argument: str,
    name: str,
    end: str,
    moved: dict[tuple[str, str], dict[str, Site]],
    *,
    shrinking: bool,
) -> bool:
    """Tell whether an argument goes to its end as a parameter does: its bounds, or a constant, may prevent it."""
    parameter = program.parameters[name]
    if argument in MATRICES or parameter.kind == "module":
        return True
    if (name, end) not in moved:  # the same runs for all steps of a loop
        transform = transform_to(parameter.constraint)
        far = transform.inv(values[name]) + (FAR if end == "upper" else -FAR)
        with torch.no_grad():
            moved[name, end] = program.run({**values, name: transform(far)})
    far_off = moved[name, end][site.name]
    before, after = (getattr(unwrap(one.fn).base, argument).detach().abs().min() for one in (site, far_off))
    ratio = after / before if shrinking else before / after
    return not bool(ratio > NARROW)


def refuse_mixed_priors(program: Program, sites: Mapping[str, Site]) -> None:
    """Refuse priors whose law differs between states of a discrete latent: it would have to be summed inside.

    Raises:
        ModelError: naming the site and the latent.
    """
    for site in sites.values():
        shape = site.fn.batch_shape if site.role == "prior" else ()  # type: ignore[attr-defined]
        for at, size in enumerate(shape):
            latent = site.dims.get(at - len(shape))
            if size > 1 and latent in program.latents:
                raise ModelError(
                    f'Site "{site.name}": expected a prior that is the same in all states, got one that depends on the '
                    f'discrete latent "{latent}". Integrate it by em_pyro.quadrature, or write what is observed by its '
                    f"marginal density."
                )


def refuse_missing_values(leaves: Mapping[str, Tensor], traced: Mapping[str, Site]) -> None:
    """Refuse latents without a density that stand inside an observed value: they are its missing entries.

    Raises:
        ModelError: naming the latent and the site.
    """
    flat = [name for name, site in traced.items() if site.role == "prior" and dropped(site)]
    for site in traced.values():
        if flat and site.role == "observed" and site.value.requires_grad:
            inside = _slopes(site.value, {name: leaves[name] for name in flat})
            for name in inside:
                raise ModelError(
                    f'Site "{name}": expected a latent that arguments depend on, got one under mask(False) inside the '
                    f'value of "{site.name}": its missing entries. They would be maximised, and the spread '
                    f'underestimated. Leave them out by the mask of "{site.name}", or write the density of what is '
                    f"observed in each row."
                )
