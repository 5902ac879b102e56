"""A fitted program on other rows: no initialiser runs, and fitted values must be what the model expects there.

A program takes the shapes of its parameters from its arguments: so many categories, components, columns, rows. Its
initialisers cannot be asked, since other rows may not allow them to be run (one row has no spread). So the model itself
must run at the fitted values, and use them as it did: `misfits.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..e_step.engine import Engine
from ..e_step.make import engine_of
from ..errors import DataError, EMError, ModelError
from ..program.data.check import check_data
from ..program.devices import beside
from ..program.handlers import local, no_empty_plate
from ..program.lookups import BelowZero, check_lookups
from ..program.named import Params
from ..program.program import Program
from ..program.site import Site
from ..program.stated import by_row, misfit
from ..program.survey import survey
from ..reading.recognise import recognise
from .fixed import fixed_engine
from .misfits import FAULTS, behind, check_broadcast, check_columns, check_rows, check_stated, check_states, tensors
from .possible import possible_posterior
from .posterior import Posterior
from .served import KEPT, Kind, kind_of, signatures


def posterior_on(
    program: Program, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any], served: list[Kind] | None = None
) -> Posterior:
    """Return the posterior of other rows of a fitted program.

    Args:
        program: what was fitted.
        params: fitted values.
        args: arguments of the model with the other rows.
        kwargs: the same by name.
        served: kinds of arguments that these values are known to serve; the kind of these is put first.

    Raises:
        ParameterError: a parameter is new, has an entry a row, or its fitted shape does not serve these rows.
        ModelError: the model does not run on them at the fitted values.
        DataError: the data cannot be used: there are no rows, or one is impossible under every state.
    """
    kinds = [] if served is None else served
    with beside(program.device):
        law = next((found for kind in kinds if (found := _as_before(kind, args, kwargs)) is not None), None)
    if law is not None:
        return law
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    sources = _sources(program, leaves)
    there = on_new_rows(program, leaves, args, kwargs)
    values = {name: parameter.initial for name, parameter in there.parameters.items()}
    with beside(there.device):
        try:
            with torch.no_grad(), BelowZero() as met:
                sites = there.run(values)
            check_data(sites, values, there.plates, there.states)
            check_lookups(there, values, met)
            law = possible_posterior(_engine(there, sites, values), values)
        except EMError:
            raise
        except FAULTS:
            with _explained(sources, args, kwargs):
                for site in _run(there, leaves).values():
                    site.log_prob()
                raise
    kind = None if program.integrated else kind_of(program, there, args, kwargs, sites)
    kinds[:] = [*([kind] if kind is not None else []), *kinds][:KEPT]
    return law


def engine_on(program: Program, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Engine:
    """Return the engine of other rows of a fitted program, its arguments left open.

    Raises:
        ParameterError: a parameter is new, has an entry a row, or its fitted shape does not serve these rows.
        ModelError: the model does not run on them at the fitted values.
        DataError: the data cannot be used, or there are none.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    there = on_new_rows(program, leaves, args, kwargs)
    values = {name: parameter.initial for name, parameter in there.parameters.items()}
    with beside(there.device):
        with torch.no_grad(), BelowZero() as met:
            sites = there.run(values)
        check_data(sites, values, there.plates, there.states)
        check_lookups(there, values, met)
        return engine_of(there, recognise(there), merge=False)[0]


def _engine(there: Program, sites: Mapping[str, Site], values: Params) -> Engine:
    """Lay the program out; where Gaussian latents are integrated, what is affine in them has to be found out."""
    if there.integrated:
        return engine_of(there, recognise(there), merge=False)[0]
    return fixed_engine(there, sites, values)


def _as_before(kind: Kind, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Posterior | None:
    """Return the posterior on arguments of a kind; None if they are of another, or anything is the matter with them."""
    plates = kind.plates(args, kwargs)
    if plates is None:
        return None
    values = {name: parameter.initial for name, parameter in kind.program.parameters.items()}
    try:
        with BelowZero() as met:
            there, sites = kind.program.run_on(args, kwargs)
        if met.met or there.plates != plates or signatures(sites) != kind.sites:
            return None
        check_data(sites, values, there.plates, there.states)
        return possible_posterior(fixed_engine(there, sites, values), values)
    except (*FAULTS, LookupError, TypeError, AttributeError):  # errors of ours among them
        return None


def on_new_rows(
    program: Program,
    leaves: Params,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    model: Callable[..., Any] | None = None,
) -> Program:
    """Survey a fitted program on other arguments, at its fitted values: the initial ones of what is returned.

    Args:
        program: what was fitted.
        leaves: fitted values, each a leaf of autograd.
        args: the other arguments.
        kwargs: the same by name.
        model: the model with data for observed sites that have none among these arguments; None is the program's own.

    Raises:
        ParameterError: a parameter is new, has an entry a row, or its fitted shape does not serve these arguments.
        ModelError: the model does not run on them at the fitted values.
        DataError: there are no rows.
    """
    for name in program.by_row:
        raise by_row(name)
    fitted = {n: replace(p, initial=leaves[n], random=None) for n, p in program.parameters.items() if n in leaves}
    sources = _sources(program, leaves)
    with _explained(sources, args, kwargs):
        there = _detached(survey(model or program.model, args, kwargs, fitted, integrated=program.integrated))
    here = _detached(replace(program, parameters=fitted))
    check_states(here, there)
    with _explained(sources, args, kwargs):
        sites = _run(there, leaves)
    check_stated(here, there)
    check_broadcast(here, there)
    check_rows(here, there)
    check_columns(here, sites, sources)
    return there


def _run(program: Program, leaves: Params) -> dict[str, Site]:
    with torch.enable_grad():
        return program.run({name: leaves[name] for name in program.parameters})


def _sources(program: Program, leaves: Params) -> dict[str, Tensor]:
    """Return what gradients of the parameters go to: the values given, and the weights of a module itself."""
    return {n: leaf if (own := program.parameters[n].tensor) is None else own for n, leaf in leaves.items()}


def _detached(program: Program) -> Program:
    """Return the same with initial values that no gradient goes to."""
    return replace(
        program, parameters={n: replace(p, initial=p.initial.detach()) for n, p in program.parameters.items()}
    )


# ---- what an error of the model is about -----------------------------------------------------------------------------


class _Watch(TorchFunctionMode):
    """Keep what the operation that failed was given."""

    failed: tuple[Any, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.failed = (*self.failed, *args, *(kwargs or {}).values())
            raise


@contextlib.contextmanager
def _explained(sources: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Raise what goes wrong in a run of the model with the name of the parameter that it is about."""
    watch = _Watch()
    try:
        with no_empty_plate(), watch:
            yield
    except EMError:
        raise
    except FAULTS as error:
        got = f"{type(error).__name__}: {error}".rstrip(".")
        message = local(error, "msg")
        fn = message.get("fn") if isinstance(message, dict) else None
        names = behind(_flat(watch.failed), sources) or (behind(tensors(fn), sources) if fn is not None else [])
        if names:
            raise misfit(names[0], sources[names[0]], got) from error
        empty = [tuple(t.shape) for t in _flat((*args, *kwargs.values())) if not t.numel()]
        if empty:
            raise DataError(f"The model: expected at least one row, got none: shape {empty[0]}. Pass data.") from error
        raise ModelError(
            f"The model: expected to run on other rows at the fitted values, got {got}. Pass rows of the same kind, or "
            f"fit these by themselves."
        ) from error


def _flat(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _flat(value)
