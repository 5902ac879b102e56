"""Check the observed values before anything runs: in their plates, finite, inside their support, all on one device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import DataError, ParameterError
from ..masks import seen, seen_values
from ..named import SLICE, broadcast, unexpand, unwrap
from ..site import Site, of_rows
from ..unroll import user_site
from .shapes import check_batch, check_mask, check_shape, listed_plates
from .statements import check_density, check_real
from .supports import broken, origin, stated, support_of

# Where a support as torch states it is closed, and the density zero or infinite for nearly all parameters.
EDGES: Mapping[type, tuple[float, ...]] = {
    torch.distributions.Gamma: (0.0,),
    torch.distributions.Dirichlet: (0.0,),
    torch.distributions.Beta: (0.0, 1.0),
    torch.distributions.Kumaraswamy: (0.0, 1.0),
}

MISSING = (dist.NanMaskedNormal, dist.NanMaskedMultivariateNormal)  # to which a nan is an entry that is missing
HEAVIEST = 1e20  # a weight: beyond, a row that is merely unlikely counts for more than one that is impossible


def check_data(
    sites: Mapping[str, Site],
    params: Mapping[str, Tensor],
    plates: Mapping[str, int],
    states: Mapping[str, int],
    bounding: Callable[[str], Collection[str]] = lambda name: (),
    known: Callable[[str, str], bool] | None = None,
) -> None:
    """Check the values of all observed `sites`, against `params` and the sizes of `plates`, at one run of the model.

    `bounding` names the parameters that enter the support of a site: data beyond it are not to blame. `known` tells
    whether an argument of a site is data alone; without it only totals of counts are taken for data.

    Raises:
        ModelError: the batch of an observed value is not that of its plates.
        ParameterError: parameters begin where the support leaves out a value that is observed.
        DataError: a value that is observed and not masked is not finite or outside the support of its distribution;
            an argument that is data is none that the distribution has; there is no value, or a sequence without a
            step; data and parameters lie on different devices; a row's weight is negative or beyond all measure, or
            there is not one for every row.
    """
    sizes, homes = {**states, **plates}, {p.device.type for p in params.values()}
    for site in sites.values():
        _check_weights(site, plates)
        check_mask(site, plates)
        check_real(site)
        if site.role == "latent":
            check_batch(site, sizes | {site.name: 1})  # its own states are no rows
            if site.mask is None:
                _check_arguments(site, known)
        if site.role != "observed" or isinstance(unwrap(site.fn).base, dist.Unit):  # a pyro.factor has no value
            continue
        check_shape(site, plates)
        check_batch(site, sizes)
        _check_sequences(site)
        devices = {site.value.device.type} | homes
        if len(devices) > 1:
            raise DataError(
                f'Site "{user_site(site.name)}": expected data and parameters on one device, got {sorted(devices)}. '
                f"Move the data, or create the parameters with device=data.device."
            )
        _check_values(site, bounding)
        _check_arguments(site, known)
        check_density(site)


def _check_weights(site: Site, plates: Mapping[str, int]) -> None:
    """Raise where the `poutine.scale` of a site is no weight of its rows."""
    if type(site.scale) in (int, float) and 0 <= site.scale <= HEAVIEST:
        return
    weights = torch.as_tensor(site.scale)
    what = f'Site "{site.name}": expected row weights (poutine.scale)'
    for dim, size in zip(range(-weights.dim(), 0), weights.shape, strict=True):
        plate = site.dims.get(dim, "")
        if size != 1 and (plate not in site.plates or size != plates[plate]):
            raise DataError(
                f"{what} of a shape that its plates broadcast to, got {tuple(weights.shape)} within plates "
                f"{listed_plates(site, plates)}. Pass one weight for each row."
            )
    real = not weights.is_complex()
    bad = ~(torch.isfinite(weights) & (weights >= 0)) if real else torch.ones_like(weights, dtype=torch.bool)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        at = f" at index {index}" if index else ""
        raise DataError(
            f"{what} that are finite and not negative, got {weights[index].item()}{at}. Give a row that is not to "
            f"count the weight zero."
        )
    if bool((weights > HEAVIEST).any()):
        raise DataError(
            f"{what} up to {HEAVIEST:g}, got {float(weights.max()):g}. Divide all weights by one number: without "
            f"priors the fitted values are the same."
        )


def _check_values(site: Site, bounding: Callable[[str], Collection[str]]) -> None:
    """Raise where a value that no mask leaves out is not a finite number, or outside the support."""
    base, value = unwrap(site.fn).base, site.value
    if value.is_complex():
        _refuse(site, torch.ones_like(value, dtype=torch.bool), "real numbers")
    support = support_of(base)
    if type(support).__name__ == "_Multinomial":  # the density holds for rows of any total
        support = constraints.independent(constraints.nonnegative_integer, 1)
    # Sums and slices, without temporaries of the size of the data, tell that all is well with most data.
    finite = not value.is_floating_point() or bool(torch.isfinite(value.sum()))
    law = unwrap(getattr(base, "observation_dist", base)).base
    edges = next((edges for kind, edges in EDGES.items() if isinstance(law, kind)), ())
    if finite and (support is None or _all_inside(support, value)) and not _any_at(edges, value):
        return
    seen = seen_values(site)
    incomplete = isinstance(base, MISSING)
    if incomplete:
        _refuse(site, value.isinf() & seen, "finite data, or nan for what is missing")
    elif not finite:
        _refuse(site, ~torch.isfinite(value) & seen, "finite data")
    if support is not None and not incomplete:
        _check_support(site, support, seen, bounding)
    for edge in edges:
        _refuse(site, (value == edge) & seen, f"values off {edge}, where a {type(law).__name__} has no finite density")


def _check_support(
    site: Site, support: constraints.Constraint, seen: Tensor, bounding: Callable[[str], Collection[str]]
) -> None:
    """Raise where a value that is seen lies outside the support in every state."""
    base, value = unwrap(site.fn).base, site.value
    event = getattr(base, "event_dim", 0)
    inside = allowed(support, value)
    enumerated = inside.dim() - (value.dim() - event)
    if enumerated > 0:  # the support depends on a latent: one state that allows the value is enough
        inside = inside.flatten(0, enumerated - 1).any(0)
    visible = seen.flatten(seen.dim() - event).any(-1) if event else seen
    outside = ~inside & visible
    if (index := _first(outside)) is not None:
        if names := sorted(bounding(site.name)):
            raise ParameterError(_beyond(site, index, support, names))
        _refuse(site, outside, f"values within {stated(support, index)}", _from_zero(support, value[visible]))


def _check_arguments(site: Site, known: Callable[[str, str], bool] | None) -> None:
    """Raise where an argument that is data is none that the distribution has, at an entry that is seen."""
    if not (found := list(broken(site.fn))):
        return
    base, visible = unwrap(site.fn).base, torch.ones((), dtype=torch.bool)
    if site.role == "observed":
        event, visible = getattr(base, "event_dim", 0), seen_values(site)
        visible = visible.flatten(visible.dim() - event).any(-1) if event else visible
        counts = torch.as_tensor(site.scale) != 0
        visible = visible & counts.reshape(counts.shape + (1,) * unwrap(site.fn).event_rank)
    for name, constraint, argument, bad in found:
        shape = torch.Size(broadcast(base.batch_shape, visible.shape))
        if (index := _first(bad.expand(shape) & visible)) is None:
            continue
        if not (constraint.is_discrete if known is None else known(site.name, name)):
            continue
        row = tuple(at for dim, at in zip(range(-len(index), 0), index, strict=True) if of_rows(site, dim))
        got = argument.expand(shape + argument.shape[argument.dim() - constraint.event_dim :])[index].tolist()
        law = "to be a whole number" if constraint.is_discrete else f"within {stated(constraint, index)}"
        remedy = "Correct it, or leave the row out by fn.mask(observed)" if site.role == "observed" else "Correct it"
        raise DataError(
            f'Site "{user_site(site.name)}": expected {name} of {type(base).__name__} {law}, got {got} at index '
            f"{row}. {remedy}."
        )


def _beyond(site: Site, index: tuple[int, ...], support: Any, names: Sequence[str]) -> str:
    """Say which value a start makes impossible."""
    kind, those = str(_slim(support)[0]).partition("(")[0], ", ".join(f'"{name}"' for name in names)
    return (
        f"Parameters {those}: expected starts at which all that is observed is possible, got a support ({kind}) of "
        f'site "{user_site(site.name)}" without {site.value[index].tolist()} at index {index}. Give pyro.param other '
        f"values to start from, or keep what bounds a support known: its maximum is where no slope is zero."
    )


def uncounted(sites: Mapping[str, Site]) -> str:
    """Return the first observed site, if no entry of any is seen and no row has a weight; else nothing."""
    observed = [site for site in sites.values() if site.role == "observed"]
    for site in observed:
        weights, mask = torch.as_tensor(site.scale), seen(site)
        if bool((weights > 0).any()) and (mask is None or bool(mask.tensor.any())):
            return ""
    return user_site(observed[0].name) if observed else ""


def nothing_counts(site: str) -> DataError:
    """Return the error of data of which no row counts."""
    return DataError(
        f'Site "{site}": expected a row that counts, got none: all weights (poutine.scale) are zero, or all is masked. '
        f"Give some row a weight above zero."
    )


def has_density_outside(site: Site) -> bool:
    """Tell whether the density of a site is positive at a value outside its support, where nothing forbids it."""
    (base, value), visible = origin(site.fn, site.value), seen_values(site)
    support, event = support_of(base), getattr(base, "event_dim", 0)
    if site.role != "observed" or support is None or isinstance(base, (dist.Unit, *MISSING)):
        return False
    visible = visible.flatten(visible.dim() - event).any(-1) if event else visible
    with pyro.validation_enabled(is_validate=False):
        return bool((~allowed(support, value) & visible & torch.isfinite(base.log_prob(value))).any())


def _any_at(edges: tuple[float, ...], value: Tensor) -> bool:
    """Tell whether a value stands at an edge, slice by slice."""
    return any(bool((part == edge).any()) for edge in edges for part in value.reshape(-1).split(SLICE))


def allowed(support: Any, value: Tensor) -> Tensor:
    """Return which values a support allows, broadcast to the states of the latents on which it depends."""
    if not hasattr(support, "constraint0"):
        return support.check(value)  # type: ignore[no-any-return]
    # that of a MaskedMixture, whose own check allows for no latent
    return torch.where(support.mask, allowed(support.constraint1, value), allowed(support.constraint0, value))


def _all_inside(support: constraints.Constraint, value: Tensor) -> bool:
    """Tell whether every value is allowed in every state; slice by slice where the bounds are the same in all rows."""
    if support in (constraints.real, constraints.real_vector):
        return True
    support, bounds = _slim(support)
    batch = value.dim() - support.event_dim
    if batch <= 0 or any(not isinstance(b, (int, float)) and getattr(b, "shape", None) != () for b in bounds):
        return bool(allowed(support, value).all())
    longest = max(range(batch), key=lambda axis: value.shape[axis])
    return all(bool(support.check(part).all()) for part in value.split(SLICE, longest))


def _slim(support: Any) -> tuple[Any, list[Any]]:
    """Return the same support with bounds that are one number as that number, and its bounds."""
    slim = copy(support)
    if isinstance(support, constraints.independent):
        slim.base_constraint, bounds = _slim(support.base_constraint)
        return slim, bounds
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor) and unexpand(bound).numel() == 1:
            setattr(slim, name, unexpand(bound).reshape(()))
    return slim, list(vars(slim).values())


def _check_sequences(site: Site) -> None:
    """Raise where a `DiscreteHMM` with a mask has a sequence without a step to look at."""
    law = getattr(unwrap(site.fn).base, "observation_dist", None)
    inner = None if law is None else unwrap(law)
    if inner is not None and inner.mask is not None and inner.mask.dim() > 2 + inner.event_rank:
        empty = ~inner.mask.flatten(-2 - inner.event_rank).any(-1)  # over steps, states and coordinates
        if bool(empty.any()):
            raise DataError(
                f'Site "{user_site(site.name)}": expected at least one step in every sequence, got none at index '
                f"{tuple(int(i) for i in empty.nonzero()[0])}. Leave the sequence out."
            )


def _from_zero(support: Any, value: Tensor) -> str:
    """Say how labels that are one too large, all of them, are made right; nothing of others."""
    labels = isinstance(support, constraints.integer_interval) and isinstance(support.upper_bound, int)  # type: ignore[arg-type]
    if not labels or not value.numel():
        return ""
    lowest, highest = (int(torch.as_tensor(bound).max()) for bound in (support.lower_bound, support.upper_bound))
    too_large = int(value.min()) > lowest and int(value.max()) == highest + 1
    return "Count them from zero: subtract one" if too_large else ""


def _first(bad: Tensor) -> tuple[int, ...] | None:
    """Return the index of the first entry that is bad; None if none is."""
    return tuple(bad.nonzero()[0].tolist()) if bool(bad.any()) else None


def _refuse(site: Site, bad: Tensor, expected: str, remedy: str = "") -> None:
    """Raise if any entry is bad, and name the first."""
    if (index := _first(bad)) is not None:
        value = site.value[index]
        got = f"{value.item()}" if value.numel() == 1 else f"{value.flatten()[:6].tolist()}"
        whole = type(unwrap(site.fn).base).__name__ == "MultivariateNormal"  # its mask leaves whole rows out
        how = (
            "write the row as a latent that is seen in part: row = pyro.sample(..., dist.MultivariateNormal(...)), "
            "then dist.Delta(row).mask(observed).to_event(1)"
            if whole
            else "leave it out by fn.mask(observed)"
        )
        remedy = remedy or f"Remove it, or {how}"
        raise DataError(f'Site "{user_site(site.name)}": expected {expected}, got {got} at index {index}. {remedy}.')
