"""Continuous latents in plates of data: normal ones are integrated, others refused, or maximised as the user says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch.distributions import Distribution

from ...errors import ModelError, ParameterError
from ..handlers import LABELS
from ..named import unwrap
from ..site import Parameter
from ..stated import stem, unfitted

NORMAL = ("Normal", "MultivariateNormal", "LowRankMultivariateNormal")  # laws of latents that can be integrated exactly


def is_discrete(fn: Distribution) -> bool:
    """Tell whether a latent of this distribution is to be enumerated."""
    return bool(fn.has_enumerate_support or fn.support.is_discrete)  # type: ignore[union-attr]


def plates_of(msg: Any) -> tuple[str, ...]:
    """Vectorised plates around a statement, left to right."""
    frames = sorted((f for f in msg["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
    return tuple(frame.name for frame in frames)


def check_chosen(messages: Mapping[str, Any], chosen: Mapping[str, str], fitted: Collection[str] | None) -> None:
    """Refuse choices that speak of no continuous latent, and integrals that are not normal.

    On other arguments than those that were `fitted` a loop may have fewer steps than were spoken of.

    Raises:
        ParameterError: naming the latent.
    """
    latents = {name: msg for name, msg in messages.items() if not (msg["is_observed"] or is_discrete(msg["fn"]))}
    for name, choice in chosen.items():
        if name not in latents and fitted is not None:
            continue
        if name not in latents:
            raise ParameterError(
                f'continuous: expected names of continuous latents, among {sorted(latents)}, got "{name}". Use the '
                f"name given to pyro.sample."
            )
        kind = type(unwrap(latents[name]["fn"]).base).__name__
        if choice == "integrate" and kind not in NORMAL:
            raise ParameterError(
                f'continuous["{name}"]: expected "maximise", got "integrate" for a {kind}: exact integrals are there '
                f"for Normal and MultivariateNormal latents. Integrate it by em_pyro.quadrature, or maximise it."
            )


def _data_plates(messages: Mapping[str, Any]) -> set[str]:
    """Plates around what is observed, or enumerated."""
    data = (msg for msg in messages.values() if msg["is_observed"] or is_discrete(msg["fn"]))
    return {plate for msg in data for plate in plates_of(msg)}


def normal_in_data(messages: Mapping[str, Any], chosen: Collection[str]) -> dict[str, str]:
    """Name the normal latents in data plates, and these, but for those of which is said what becomes of them."""
    data, found = _data_plates(messages), dict[str, str]()
    for name, msg in messages.items():
        if msg["is_observed"] or name in chosen or is_discrete(msg["fn"]):
            continue
        inside = [plate for plate in plates_of(msg) if plate in data]
        if inside and type(unwrap(msg["fn"]).base).__name__ in NORMAL:
            found[name] = f'a normal latent in the data plate "{inside[0]}"'
    return found


def further(
    messages: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    fitted: Collection[str] | None,
    integrated: Collection[str],
) -> dict[str, str]:
    """Name the continuous latents that other arguments bring besides the `fitted` ones, and integrate these.

    Further steps of a loop are called as those that were integrated are, but for the number.

    Args:
        messages: of all sites.
        parameters: those of the program, sites with a prior among them.
        fitted: names that have a value; None is all of them.
        integrated: latents that were integrated.

    Raises:
        ParameterError: one is no such step, and wants a value.
    """
    steps, found = {stem(name) for name in integrated}, dict[str, str]()
    if fitted is None:
        return found
    for name in (name for name, one in parameters.items() if one.kind == "prior" and name not in fitted):
        if stem(name) not in steps or type(unwrap(messages[name]["fn"]).base).__name__ not in NORMAL:
            raise unfitted(name, fitted)
        found[name] = "a further step"
    return found


def local_continuous(messages: Mapping[str, Any], summed: Collection[str], chosen: Collection[str]) -> frozenset[str]:
    """Name the continuous latents in plates of data that are to be maximised, and refuse others that stand there.

    Elsewhere a continuous latent is a parameter with a prior in any case, unless it is among those `summed` out.
    """
    priors = [name for name, msg in messages.items() if not (msg["is_observed"] or name in summed)]
    by_row, data = set[str](), _data_plates(messages)
    for name in priors:
        msg = messages[name]
        local = [plate for plate in plates_of(msg) if plate in data]
        if not local:
            continue
        if name + LABELS in messages:
            raise ModelError(
                f'Site "{name}": expected obs_mask on a discrete or normal site, got one of '
                f"{type(unwrap(msg['fn']).base).__name__}. A value on which nothing depends is left out by "
                f"fn.mask(observed). One on which others do has to be integrated: em_pyro.quadrature makes it discrete."
            )
        by_row.add(name)
        if name not in chosen:
            raise ModelError(
                f'Site "{name}": expected a discrete or normal latent in the data plate "{local[0]}", got '
                f"{type(unwrap(msg['fn']).base).__name__}. Integrate it by em_pyro.quadrature, or write a marginal "
                f"density; or make it a parameter with an entry a row and a prior: "
                f'EM(continuous={{"{name}": "maximise"}}).'
            )
    return frozenset(by_row)
