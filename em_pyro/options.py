"""Check the options of `EM` before anything runs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from torch.distributions import Distribution
from torch.nn import Module

from .errors import ModelError, ParameterError

EVERY = 100  # steps between two writes of a checkpoint, unless others are asked for
E_STEPS = ("soft", "hard", "sampled")
UPDATES = ("incremental", "online")
STEP_SIZE = 0.6
ACCELERATIONS = ("auto", "squarem", "quasi-newton")

Init = TypeVar("Init", bound=Callable[..., None])


def planning(em: Any) -> dict[str, Any]:
    """Return the options of an `EM` that say how its model is read and planned."""
    return {name: getattr(em, name) for name in ("check", "collapse", "prior_density", "continuous")}


def telling(em: Any) -> dict[str, Any]:
    """Return the options of an `EM` that say which steps a fit takes; of functions only that there is one."""
    names = ("tol", "max_steps", "seed", "starts", "m_step", "screen", "acceleration", "e_step")
    return {name: getattr(em, name) for name in names} | planning(em) | {"callback": em.callback is not None}


def written(em: Any) -> str:
    """Return what an `EM` is, as it would be written: its model, and the options that are not their defaults."""
    said = list[str]()
    for name, parameter in inspect.signature(type(em)).parameters.items():
        value = getattr(em, name)
        if name == "model":
            said.append(_named(value))
        elif value != parameter.default and (value or parameter.default):
            said.append(f"{name}={_short(value)}")
    return f"{type(em).__name__}({', '.join(said)})"


def _named(function: Any) -> str:
    """Return a function by its name; of a partial one what it fixes, too."""
    if isinstance(function, partial):
        fixed = [*map(_short, function.args), *(f"{name}={_short(value)}" for name, value in function.keywords.items())]
        return f"partial({', '.join([_named(function.func), *fixed])})"
    return str(getattr(function, "__name__", f"{type(function).__name__}()"))


def _short(value: Any) -> str:
    """Return a value as it would be written, tensors by their shapes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_short(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return f"[{_short(value[0])}, ...]" if len(value) > 1 else f"[{', '.join(map(_short, value))}]"
    if hasattr(value, "shape"):
        return f"<shape {tuple(value.shape)}>"
    return _named(value) if callable(value) else repr(value)


def model_alone(init: Init) -> Init:
    """Let an initialiser take a model by position and nothing beside it, as SVI does; its signature stays."""

    @wraps(init)
    def taken(self: Any, *args: Any, **options: Any) -> None:
        if len(args) > 1:
            what = type(self).__name__
            got = ", ".join(_named(one) if callable(one) else type(one).__name__ for one in args[1:])
            raise TypeError(
                f"{what}: expected a model, and options by name (starts=10), got {got} beside the model. Exact EM "
                f"takes no guide, optimiser or loss, as SVI does: {what}(model).fit(data)."
            )
        init(self, *args, **options)

    return cast(Init, taken)


def check_model(what: str, model: Any) -> None:
    """Raise where there is no model: nothing that can be called, a guide, a class, a distribution.

    Raises:
        ModelError: with what it is.
    """
    kinds = ((AutoGuide, "a guide"), (ELBO, "an objective of SVI"))
    known = next((f", {kind}, which exact EM needs none of" for cls, kind in kinds if isinstance(model, cls)), "")
    if known or not callable(model):
        remedy = " Pass the model itself." if known else ""
        raise ModelError(f"{what}: expected a Pyro model (a callable), got {type(model).__name__}{known}.{remedy}")
    if isinstance(model, type):
        got = f"the class {model.__name__}. Make one of it: {what}({model.__name__}(...))."
        raise ModelError(f"{what}: expected a Pyro model (a callable), got {got}")
    if isinstance(model, Distribution):
        got = f"the distribution {type(model).__name__}. Write a function that states it: pyro.sample(name, it, obs=x)."
        raise ModelError(f"{what}: expected a Pyro model (a callable), got {got}")
    if isinstance(model, Module) and type(model).forward is Module.forward and "forward" not in vars(model):
        raise ModelError(
            f"{what}: expected a module with a forward, got {type(model).__name__}, which has none. Add it."
        )


def check_options(
    tol: Any,
    max_steps: Any,
    seed: Any,
    starts: Any,
    m_step: Any,
    callback: Any,
    acceleration: Any,
    e_step: Any = "soft",
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
    _check_acceleration(acceleration, m_step or {}, e_step)


def _check_acceleration(acceleration: Any, m_step: Mapping[str, Any], e_step: Any) -> None:
    """Refuse what is no acceleration or E-step, and an acceleration of steps that are no smooth map."""
    if e_step not in E_STEPS:
        raise ParameterError(f'EM: expected e_step to be "soft", "hard" or "sampled", got {e_step!r}.')
    if not (acceleration is None or isinstance(acceleration, str) and acceleration in ACCELERATIONS):
        names = ", ".join(f'"{name}"' for name in ACCELERATIONS)
        raise ParameterError(f"EM: expected acceleration to be None or one of {names}, got {acceleration!r}.")
    if acceleration not in ("auto", None) and e_step != "soft":
        raise ParameterError(
            f'EM: expected acceleration to be "auto" or None with e_step="{e_step}", whose steps jump, got '
            f"{acceleration!r}."
        )
    own = [name for name, choice in m_step.items() if callable(choice)]
    if acceleration == "quasi-newton" and own:
        raise ParameterError(
            f'EM: expected no M-step of your own with acceleration="quasi-newton", which moves all parameters, got '
            f'm_step["{own[0]}"]. Choose "squarem" or None.'
        )


def need_soft(e_step: str) -> None:
    """Refuse a single step that does not share rows out by the posterior: what it would say is no loss of EM's.

    Raises:
        ParameterError: naming the option.
    """
    if e_step != "soft":
        raise ParameterError(f'EM.step: expected e_step="soft", got "{e_step}". Use EM.fit, with max_steps=1.')


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
    path = isinstance(checkpoint, (str, os.PathLike)) and os.fspath(checkpoint)
    if not (checkpoint is None or path) or (path and os.path.isdir(path)):
        got = f"that of a folder, {path}" if path else repr(checkpoint)
        raise ParameterError(f"EM: expected checkpoint to be None or the path of a file, got {got}.")
    if isinstance(every, bool) or not isinstance(every, Integral) or int(every) < 1:
        raise ParameterError(f"EM: expected every to be a number of steps of at least one, got {every!r}.")
    if checkpoint is None and int(every) != EVERY:
        raise ParameterError(
            f"EM: expected every={every} to come with checkpoint, which it counts for. Give it a path."
        )


def check_together(what: str, **asked: bool) -> None:
    """Refuse options that cannot be had together: a file follows full steps, and so do states in place of weights.

    Raises:
        ParameterError: naming two that were `asked` for.
    """
    both = [name for name, there in asked.items() if there]
    if what == "fit_stream" and both:
        raise ParameterError(f"fit_stream: expected no {both[0]}, got it. Leave it out, or fit all rows at once.")
    if len(both) > 1:
        raise ParameterError(f"EM: expected {both[0]} or {both[1]}, got both. Leave one of them out.")


def check_passes(passes: Any) -> None:
    """Refuse what is no number of passes.

    Raises:
        ParameterError: it is none.
    """
    if passes is not None and not (isinstance(passes, Integral) and not isinstance(passes, bool) and int(passes) >= 0):
        raise ParameterError(f"fit_stream: expected passes to be None or an integer of at least 0, got {passes!r}.")


def check_batches(
    batches: Any, update: Any, step_size: Any, acceleration: Any, callback: Any, process_group: Any = None
) -> None:
    """Refuse what is no way to update statistics between slices, and what goes with none.

    Raises:
        ParameterError: naming the option, or the two that cannot be had together.
    """
    if not (batches is None or isinstance(batches, Integral) and not isinstance(batches, bool) and int(batches) >= 1):
        raise ParameterError(f"EM: expected batches to be None or a number of at least one, got {batches!r}.")
    _check_update(update, step_size, online=batches is not None and update == "online")
    if update == "online" and batches is None:
        raise ParameterError('EM: expected update="online" with batches=, got no batches. Say how many, or leave both.')
    if batches is not None and acceleration not in (None, "auto"):
        raise ParameterError(f'EM: expected acceleration to be "auto" or None with batches=, got "{acceleration}".')
    if batches is not None and process_group is not None:
        raise ParameterError("EM: expected no process_group with batches=, got one. Leave one of them out.")
    if batches is not None and callback is not None:
        raise ParameterError("EM: expected no callback with batches=, got one. Leave one of them out.")


def _check_update(update: Any, step_size: Any, *, online: bool) -> None:
    """Refuse what is no update, and a size of steps that are not taken."""
    if update not in UPDATES:
        names = " or ".join(f'"{name}"' for name in UPDATES)
        raise ParameterError(f"EM: expected update to be {names}, got {update!r}.")
    if not (isinstance(step_size, Real) and 0.5 < float(step_size) <= 1):
        raise ParameterError(f"EM: expected step_size to be a number above 0.5, and at most 1, got {step_size!r}.")
    if float(step_size) != STEP_SIZE and not online:
        raise ParameterError('EM: expected step_size with batches= and update="online", got it without.')


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
