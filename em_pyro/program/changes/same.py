"""Is a run of a model one of the program that was surveyed: the same statements, plates, latents, parameters, data?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ...errors import ModelError
from ..handlers import refuse_part, states
from ..named import unexpand
from ..site import Latent, Parameter, Run, Site

SAME_ARGUMENTS = "Let no `if` or loop of the model depend on a sampled value, a parameter or random numbers."
OTHER_ARGUMENTS = "These arguments make another program: fit it by itself."
"""Remedies, by what the run was given."""

ROUNDING = 100  # of a constant, in units of its dtype: two runs of one model


def unstable(name: str, what: str, remedy: str) -> ModelError:
    """Return the error of a run whose statement `name` is new or missing."""
    return ModelError(f'Site "{name}": expected the same statements in every run of the model, but {what}. {remedy}')


def states_of(sites: Mapping[str, Site]) -> dict[str, int]:
    """Return how often the observed tensors of a run have been written to so far."""
    observed = {name: site.value for name, site in sites.items() if site.role == "observed"}
    return {name: value._version for name, value in observed.items() if not value.is_inference()}


KEPT = "A model must not change its data or draw them: work on a copy (x = x + 1, not x += 1)."


def check_kept(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Compare the contents of the arguments before and after the model has run.

    Raises:
        ModelError: the model writes into one.
    """
    for name, state in before.items():
        if after[name] != state:
            raise ModelError(f"{name}: expected the same data in every run, but the model writes into them. {KEPT}")


@contextlib.contextmanager
def keeping(contents: Callable[[], Mapping[str, Any]], entries: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
    """Compare the contents of the arguments before and after what is done within; if it fails, what they hold as well.

    A list to which the model appends may be another fault's cause; where all goes well, it is the model's own affair.

    Raises:
        ModelError: the model writes into one.
    """
    before, held = contents(), entries()
    try:
        yield
    except Exception as error:
        try:
            check_kept(before, contents())
            check_kept(held, entries())
        except ModelError as changed:
            raise changed from error
        raise
    check_kept(before, contents())


def check_steady(
    first: Mapping[str, Site],
    states: Mapping[str, int],
    later: Mapping[str, Site],
    again: Callable[[], Mapping[str, Site]],
) -> None:
    """Compare the data of two runs of a model at different parameters, and at the same where they differ.

    Args:
        first: a run.
        states: of its observed tensors, then.
        later: another run, with other parameters.
        again: runs the model with the parameters of `first`.

    Raises:
        ModelError: the model writes into its data, or makes others in every run.
    """
    for name, state in states_of(first).items():
        if state != states.get(name, state):
            raise ModelError(
                f'Site "{name}": expected the same data in every run of the model, but it writes into them. {KEPT}'
            )
    moved = [name for name in states if name in later and not _same_values(first[name].value, later[name].value)]
    run = again() if moved else {}
    for name in moved:
        if not _same_values(first[name].value, run[name].value):
            raise ModelError(
                f'Site "{name}": expected the same data in every run of the model, got others with the same '
                f"parameters. {KEPT}"
            )


def _same_values(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()):
        return a.shape == b.shape
    return bool(((a == b) | ((a != a) & (b != b))).all())


def check_same(
    run: Run, parameters: Mapping[str, Parameter], latents: Mapping[str, Latent], plate_dims: Mapping[str, int]
) -> None:
    """Compare a run on other arguments with what was surveyed; `Program.on` has seen that no site is new or missing.

    Raises:
        ModelError: a plate, a latent or a parameter differs; or the batch of a site is not that of its plates (a
            parameter by row, whose initialiser has not been run again).
        DataError: a plate is empty.
    """
    for name, frame in run.frames.items():
        refuse_part(frame)
        if plate_dims.get(name) != frame.dim:
            raise _other(f'Plate "{name}"', f"dimension {plate_dims.get(name)}", f"dimension {frame.dim}")
    for name in plate_dims:
        if name not in run.frames:
            raise _other(f'Plate "{name}"', "a plate of that name", "none")
    for parameter in parameters.values():
        _check_parameter(run, parameter)
    for site in run.sites.values():
        _check_site(site, latents.get(site.name))
        shape = site.fn.batch_shape
        for dim, name in site.dims.items():
            if name in run.frames and -dim <= len(shape) and shape[dim] not in (1, run.frames[name].size):
                rows = f'{run.frames[name].size} rows in plate "{name}"'
                raise _other(f'Site "{site.name}"', rows, f"arguments of {shape[dim]}")


def first_difference(before: Mapping[str, Site], now: Mapping[str, Site]) -> str:
    """Name the first site that two runs at the same parameters have with other tensors in it; empty if none."""
    for name, site in now.items():
        was = before.get(name)
        if was is None:
            return f'site "{name}"'
        old, new = _tensors(was), _tensors(site)
        if any(not equal(old[key], new[key]) for key in old.keys() & new.keys()):  # some are made when asked for
            return f'site "{name}"'
    return ""


def _tensors(site: Site) -> dict[str, Any]:
    """Return the value, the mask, the scale and what the distribution was made of."""
    found, laws = {"value": site.value, "mask": site.mask, "scale": site.scale}, {"fn": site.fn}
    while laws:
        where, law = laws.popitem()
        found |= {f"{where}.{key}": part for key, part in vars(law).items() if isinstance(part, Tensor)}
        laws |= {f"{where}.{key}": part for key, part in vars(law).items() if isinstance(part, Distribution)}
    return found


def equal(one: Any, other: Any) -> bool:
    """Tell whether two constants are the same but for rounding, which may differ from run to run on several threads."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        alone = unexpand(one), unexpand(other)  # a law that Pyro expanded to all states and rows is compared once
        if alone[0].shape == alone[1].shape:
            one, other = alone
        if not one.is_floating_point() or torch.equal(one, other):
            return torch.equal(one, other)
        return torch.allclose(one, other, rtol=ROUNDING * torch.finfo(one.dtype).eps, atol=0.0, equal_nan=True)
    return isinstance(one, Tensor) == isinstance(other, Tensor) and bool(one == other)


def _check_parameter(run: Run, parameter: Parameter) -> None:
    """Raise where a parameter is not stated any more, or with an initial value of another shape."""
    name, shape = parameter.name, tuple(parameter.initial.shape)
    if parameter.kind == "prior" and run.sites[name].role != "prior":
        raise _other(f'Site "{name}"', "a latent with a prior", "an observed value")
    if parameter.kind == "param" and name not in run.stated:
        raise _other(f'Parameter "{name}"', "a statement of that name", "none")
    initial = run.stated.get(name)
    if isinstance(initial, Tensor) and tuple(initial.shape) != shape:
        raise _other(f'Parameter "{name}"', f"shape {shape}", f"shape {tuple(initial.shape)}")


def _check_site(site: Site, latent: Latent | None) -> None:
    """Raise where a site is enumerated now and was not, or was and is not, or has other states or plates."""
    where = f'Site "{site.name}"'
    if latent is None:
        return  # a new latent has no value and has been refused by the run
    if site.role != "latent":
        raise _other(where, "a latent", "an observed value")
    support = _support(site.fn)
    if support is None or support.shape != latent.support.shape or bool((support != latent.support).any()):
        got = "other ones" if support is None else f"{len(support)} of shape {tuple(support.shape[1:])}"
        raise _other(where, f"the same {latent.size} states", got)
    if site.plates != latent.plates:
        raise _other(where, f"plates {list(latent.plates)}", f"plates {list(site.plates)}")


def _support(fn: Distribution) -> Tensor | None:
    """Return all states of an enumerated site; None where they differ by row or there are infinitely many."""
    try:
        return states(fn.enumerate_support(expand=False), fn.event_shape)
    except NotImplementedError:
        return None


def _other(where: str, expected: str, got: str) -> ModelError:
    return ModelError(f"{where}: expected {expected} on other arguments too, got {got}. {OTHER_ARGUMENTS}")
