"""Is a run of a model one of the program that was surveyed: the same statements, plates, latents and parameters?"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributions import Distribution

from ..errors import ModelError
from .handlers import refuse_part, states
from .site import Latent, Parameter, Run, Site

SAME_ARGUMENTS = "Let no `if` or loop of the model depend on a sampled value or a parameter."
OTHER_ARGUMENTS = "These arguments make another program: fit it by itself."
"""Remedies, by what the run was given."""


def unstable(name: str, what: str, remedy: str) -> ModelError:
    """Return the error of a run whose statement `name` is new or missing."""
    return ModelError(f'Site "{name}": expected the same statements in every run of the model, but {what}. {remedy}')


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
