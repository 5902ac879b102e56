"""Check the options of `EM` before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from .errors import ParameterError

EVERY = 100  # steps between two writes of a checkpoint, unless others are asked for
ACCELERATIONS = ("auto", "squarem", "quasi-newton")


def planning(em: Any) -> dict[str, Any]:
    """Return the options of an `EM` that say how its model is read and planned."""
    return {name: getattr(em, name) for name in ("check", "collapse", "prior_density", "continuous")}


def telling(em: Any) -> dict[str, Any]:
    """Return the options of an `EM` that say which steps a fit takes; of functions only that there is one."""
    names = ("tol", "max_steps", "seed", "starts", "m_step", "screen", "acceleration")
    return {name: getattr(em, name) for name in names} | planning(em) | {"callback": em.callback is not None}


def check_options(
    tol: Any, max_steps: Any, seed: Any, starts: Any, m_step: Any, callback: Any, acceleration: Any
) -> None:
    """Raise an error that names the option, what it may be, and what it is.

    Raises:
        ParameterError: an option is of another kind or out of its range.
    """
    if not (isinstance(tol, Real) and float(tol) >= 0 and isinstance(max_steps, Integral) and int(max_steps) >= 0):
        raise ParameterError(
            f"EM: expected tol to be a number and max_steps an integer, both of at least 0, got {tol!r} and "
            f"{max_steps!r}."
        )
    if not isinstance(seed, Integral):
        raise ParameterError(f"EM: expected seed to be an integer, got {seed!r}.")
    if not _are_starts(starts):
        raise ParameterError(
            f"EM: expected starts to be a number of at least one, a dict of values or a list of such dicts, got "
            f"{starts!r}. Use the names of EM.params."
        )
    if not (m_step is None or isinstance(m_step, Mapping)):
        raise ParameterError(
            f'EM: expected m_step to be a dict, as in {{"loc": "torch"}}, got {m_step!r}. Name the parameters.'
        )
    if not (callback is None or callable(callback)):
        raise ParameterError(f"EM: expected callback to be callable or None, got {callback!r}.")
    _check_acceleration(acceleration, m_step or {})


def _check_acceleration(acceleration: Any, m_step: Mapping[str, Any]) -> None:
    """Refuse what is no acceleration, and one that an M-step of the user's own rules out."""
    if not (acceleration is None or isinstance(acceleration, str) and acceleration in ACCELERATIONS):
        names = ", ".join(f'"{name}"' for name in ACCELERATIONS)
        raise ParameterError(f"EM: expected acceleration to be None or one of {names}, got {acceleration!r}.")
    own = [name for name, choice in m_step.items() if callable(choice)]
    if acceleration == "quasi-newton" and own:
        raise ParameterError(
            f'EM: expected no M-step of your own with acceleration="quasi-newton", which moves all parameters, got '
            f'm_step["{own[0]}"]. Choose "squarem" or None.'
        )


def check_priors(prior_density: Any, continuous: Any) -> None:
    """Refuse what is no density of priors, and what cannot be done with continuous latents.

    Raises:
        ParameterError: naming the option and what it may be.
    """
    if prior_density not in ("constrained", "unconstrained"):
        raise ParameterError(
            f'EM: expected prior_density to be "constrained" or "unconstrained", got {prior_density!r}.'
        )
    if not (continuous is None or isinstance(continuous, Mapping)):
        raise ParameterError(
            f'EM: expected continuous to be a dict, as in {{"topics": "maximise"}}, got {continuous!r}. Name the sites.'
        )
    for name, choice in (continuous or {}).items():
        if choice not in ("integrate", "maximise"):
            raise ParameterError(f'continuous["{name}"]: expected "integrate" or "maximise", got {choice!r}.')


def check_file(checkpoint: Any, every: Any) -> None:
    """Refuse what is no path, and what is no number of steps.

    Raises:
        ParameterError: naming the option and what it may be.
    """
    if not (checkpoint is None or isinstance(checkpoint, (str, os.PathLike)) and os.fspath(checkpoint)):
        raise ParameterError(f"EM: expected checkpoint to be None or the path of a file, got {checkpoint!r}.")
    if isinstance(every, bool) or not isinstance(every, Integral) or int(every) < 1:
        raise ParameterError(f"EM: expected every to be a number of steps of at least one, got {every!r}.")
    if checkpoint is None and int(every) != EVERY:
        raise ParameterError(
            f"EM: expected every={every} to come with checkpoint, which it counts for. Give it a path."
        )


def check_switches(**switches: object) -> None:
    """Refuse what is neither true nor false: the word "no" would count as true.

    Raises:
        ParameterError: naming the option.
    """
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ParameterError(f"EM: expected {name} to be True or False, got {value!r}.")


def _are_starts(starts: Any) -> bool:
    """Whether these are a number of starts, a dict of values, or a list of such dicts."""
    if isinstance(starts, Integral):
        return not isinstance(starts, bool) and int(starts) >= 1
    several = isinstance(starts, Sequence) and not isinstance(starts, str) and len(starts) > 0
    return isinstance(starts, Mapping) or (several and all(isinstance(v, Mapping) for v in starts))


def bar_of(starts: int) -> Any:
    """Return the bar that `progress` shows."""
    from tqdm import tqdm

    return tqdm(desc=f"EM, {starts} start{'s' * (starts > 1)}", unit=" steps")
