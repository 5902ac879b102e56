"""Check that what is observed has the shape of its plates, and say what would give it that shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.primitives import _masked_observe

from ...errors import DataError, ModelError
from ..named import Params, listed, unwrap
from ..site import Latent, Site
from ..unroll import user_site

OBS_MASK = re.compile(r"Invalid obs_mask shape (\(.*?\)); should be broadcastable to batch_shape = (\(.*?\))")
MISMATCH = re.compile(r"Shape mismatch inside plate\('(.+)'\) at site (.+) dim (-?\d+), (\d+) vs (\d+)")


def check_is_data(
    sites: Mapping[str, Site], latents: Mapping[str, Latent], run: Callable[[Params], Mapping[str, Site]]
) -> None:
    """Raise where what is observed was computed from discrete latents, and is no data.

    Such a value is of the shape of their states; with a latent fixed at one of them it is not.

    Args:
        sites: those of an enumerated run.
        latents: what was enumerated.
        run: the sites with some latents fixed.
    """
    for name, site in sites.items():
        if site.role != "observed" or not site.value.numel():  # a pyro.factor has no value
            continue
        shape = site.value.shape[: max(0, site.value.dim() - len(site.fn.event_shape))]
        wide = {site.dims.get(dim, "") for dim, size in zip(range(-len(shape), 0), shape, strict=True) if size > 1}
        of = [one for one in latents.values() if one.name in wide]
        of = [one for one in of if run({one.name: one.placed(one.support[:1])})[name].value.shape != site.value.shape]
        if of:
            which = listed([f'"{one.name}"' for one in of])
            raise ModelError(
                f'Site "{user_site(name)}": expected data as obs=, got a value that is computed from latent {which}. '
                f'Write its density as a term of the model: pyro.factor("{user_site(name)}", fn.log_prob(value)).'
            )


def check_shape(site: Site, plates: Mapping[str, int]) -> None:
    """Raise where a batch dimension of a value is not that of a plate, of its size.

    Raises:
        DataError: there is no value.
        ModelError: plates and value do not go together.
    """
    if not site.value.numel():
        raise DataError(
            f'Site "{user_site(site.name)}": expected data, got shape {tuple(site.value.shape)}. Pass some.'
        )
    batch = site.value.dim() - site.fn.event_dim  # type: ignore[attr-defined]
    _check_event(site, batch)
    got = tuple(site.value.shape[: max(0, batch)])
    want = [plates.get(site.dims.get(i - batch, ""), 1) for i in range(len(got))]
    if any(size not in (1, have) for size, have in zip(got, want, strict=True)):
        raise ModelError(
            f'Site "{user_site(site.name)}": expected a batch that its plates broadcast to, got {got} within plates '
            f"{listed_plates(site, plates)}. {_remedy(site, got, plates)}"
        )


def _check_event(site: Site, batch: int) -> None:
    """Raise where the numbers of a row are not as many as those of its distribution."""
    event, got = site.fn.event_shape, tuple(site.value.shape[max(0, batch) :])
    fits = len(got) == len(event) and all(1 in pair or pair[0] == pair[1] for pair in zip(got, event, strict=True))
    base = unwrap(site.fn).base
    if fits or hasattr(base, "observation_dist"):
        return
    labels = type(base).__name__.startswith("OneHot")
    remedy = (
        "Pass torch.nn.functional.one_hot(labels), or observe labels by a Categorical"
        if labels
        else ("Pass rows of that many numbers, or give its distribution arguments for as many as there are")
    )
    raise ModelError(
        f'Site "{user_site(site.name)}": expected values of shape {tuple(event)} in every row, got {got}. {remedy}.'
    )


def _remedy(site: Site, got: Sequence[int], plates: Mapping[str, int]) -> str:
    """Say what gives a value the shape of its plates."""
    names = {dim: name for dim, name in site.dims.items() if name in site.plates}
    depth = -min(names, default=0)
    rows = [plates[names[dim]] if dim in names else 1 for dim in range(-depth, 0)]
    beyond = got[depth:]
    if depth and beyond and all(size in (1, have) for size, have in zip(got, rows, strict=False)):
        if all(size == 1 for size in beyond):
            return f"Pass it without the last dimension{'s' * (len(beyond) > 1)}: x[..., 0], or one column of a frame."
        if unwrap(site.fn).base.has_enumerate_support and not site.fn.event_shape:  # type: ignore[attr-defined]
            more = " (of a row of indicators its argmax)"
        else:
            more = ""
        shape = ", ".join(map(str, beyond))
        return (
            f"Pass one value for each row{more}; or, if a row has ({shape}) of them, give the distribution arguments "
            f"of that shape and call .to_event({len(beyond)})."
        )
    if len(names) == 1 and len(got) == depth:
        (name,) = names.values()
        return f'Give plate "{name}" the size {max(got)}, or pass {plates[name]} rows.'
    return f'Enclose it in pyro.plate("data", {max(got)}) or call .to_event({len(got)}).'


def check_mask(site: Site, plates: Mapping[str, int]) -> None:
    """Raise where a mask has not as many entries as a plate has rows.

    Raises:
        ModelError: with both shapes.
    """
    shape = () if site.mask is None else tuple(site.mask.shape)
    for dim, size in zip(range(-len(shape), 0), shape, strict=True):
        if size not in (1, plates.get(site.dims.get(dim, ""), size)):
            raise ModelError(
                f'Site "{user_site(site.name)}": expected a mask of a shape that its plates broadcast to, got {shape} '
                f"within plates {listed_plates(site, plates)}. Pass one entry for each row."
            )


def check_batch(site: Site, sizes: Mapping[str, int]) -> None:
    """Raise where a dimension of the distribution's batch is that of a plate or a latent, and has another size.

    Raises:
        ModelError: with the dimension's size.
    """
    shape = site.fn.batch_shape
    for dim, size in zip(range(-len(shape), 0), shape, strict=True):
        if size not in (1, sizes.get(site.dims.get(dim, ""), size)):
            raise ModelError(
                f'Site "{user_site(site.name)}": expected a batch that its plates broadcast to, got {size} rows that '
                f'belong to no plate. Enclose it in pyro.plate("data", {size}) or call .to_event(1).'
            )


def listed_plates(site: Site, plates: Mapping[str, int]) -> str:
    """List the plates of a site with their sizes."""
    return ", ".join(f'"{name}" ({plates[name]})' for name in site.plates) or "none"


def mismatched(error: ValueError, messages: Mapping[str, Any] | None = None) -> ModelError | None:
    """Return what Pyro says of a batch that does not fit its plate, with a remedy; None if it says something else.

    Args:
        error: of Pyro's.
        messages: the statements before, by site: one that is drawn for every row may be what does not fit.
    """
    if found := OBS_MASK.match(str(error)):
        got, batch = found.groups()
        return ModelError(
            f'Site "{_labelled(error)}": expected an obs_mask that broadcasts to its batch of shape {batch}, got shape '
            f"{got}. A row is seen as a whole or not at all: pass obs_mask.all(-1), or state its values as sites of "
            f"their own."
        )
    found = MISMATCH.match(str(error))
    if not found:
        return None
    plate, site, dim, have, size = found.groups()
    inside = [f'"{name}"' for name, msg in (messages or {}).items() if _for_each_row(msg, plate)]
    remedy = (
        f"Call .to_event(1) if a row has {size} values; index by a latent or by data what has {size} entries otherwise."
        if not inside
        else f"If all rows are to share {listed(inside)}, sample it before the plate: inside, every row has its own. A "
        f"PyroSample is sampled where the module first reads it."
    )
    return ModelError(
        f'Site "{site}": expected a batch that its plates broadcast to, got size {size} in dimension {dim}, which is '
        f'that of plate "{plate}" ({have}). {remedy}'
    )


def _for_each_row(msg: Any, plate: str) -> bool:
    """Whether a statement draws events of a continuous latent for every row of a plate."""
    inside = any(frame.name == plate for frame in msg["cond_indep_stack"])
    fn = msg["fn"]
    return inside and not (msg["is_observed"] or fn.has_enumerate_support) and len(fn.event_shape) > 0


def of_states(error: Exception, states: Mapping[str, int]) -> ModelError | None:
    """Return what Pyro says of a run with all states of its latents, where these do not fit a plate; else None."""
    found = MISMATCH.match(str(error))
    if not found:
        return mismatched(error) if isinstance(error, ValueError) else None
    plate, site, dim, have, size = found.groups()
    which = [f'"{user_site(name)}"' for name, many in states.items() if many == int(size)]
    if not which:
        return None
    return ModelError(
        f'Site "{site}": expected a batch that its plates broadcast to, got the {size} states of {listed(which)} in '
        f'dimension {dim}, which is that of plate "{plate}" ({have}). Leave out a .to_event that takes the rows of the '
        f"plate into an event; index a table by states and rows, table[z, rows], where both enter."
    )


def _labelled(error: ValueError) -> str:
    """Return the name of the site with an obs_mask at which Pyro has raised an error."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code is _masked_observe.__code__:
            name = trace.tb_frame.f_locals["name"]
        trace = trace.tb_next
    return name
