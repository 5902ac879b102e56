"""Read and write Pyro's param store exactly as SVI does, and nothing else.

A fit starts from what `pyro.param` returns and leaves its values under the user's names, written in place into the
unconstrained tensors that exist (a PyroModule's own among them).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import transform_to

from ..errors import EMError, ModelError, ParameterError
from .changes.drawn import check_drawn
from .data.shapes import of_states
from .devices import drawing
from .handlers import register
from .named import Params
from .program import Program
from .site import Parameter, Site
from .unroll import user_site

# How far inside an open interval the store keeps a value whose transform cannot represent the boundary.
ROOTED = 100.0  # units of rounding, of the largest eigenvalue: the smallest of a matrix that surely has a root
MARGIN = {torch.float64: 1e-300, torch.float32: 1e-37}


def starting_values(program: Program) -> dict[str, Tensor]:
    """Return what `pyro.param` returns for every parameter now; a site with a prior has its draw.

    Raises:
        ParameterError: a value lies outside its constraint.
    """
    values = values_now(program)
    check_starts(program, values)
    return values


def values_now(program: Program, given: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return the same, whatever the constraints; of those that are `given` in their place, these if they fit."""
    store, values = pyro.get_param_store(), {}
    for name, parameter in program.parameters.items():
        value = parameter.initial
        if parameter.tensor is not None:  # a module's own weight is what is fitted, in the store or not
            value = parameter.tensor
        elif parameter.kind != "prior" and name in store:
            value = store[name]
        values[name] = value.detach().clone()
        if given and name in given:
            try:
                wanted = torch.as_tensor(given[name]).to(value)
            except (TypeError, ValueError, RuntimeError):  # no numbers: is said where starts are checked
                continue
            if wanted.shape == value.shape and bool(parameter.constraint.check(wanted).all()):
                values[name] = wanted.detach().clone()
    return values


def check_starts(program: Program, values: Mapping[str, Tensor]) -> None:
    """Raise a `ParameterError` where a start lies outside the constraint of its parameter."""
    for name, parameter in program.parameters.items():
        check_value(parameter, values[name], "its start")


def run_at_start(program: Program, start: Params) -> dict[str, Site]:
    """Run the program where a fit begins.

    Raises:
        ParameterError: a start lies outside its constraint.
        ModelError: the model branches on a sampled value, or runs with one state of its latents and not with all; or
            it draws random numbers on which its sites hang.
    """
    try:
        with drawing() as drawn:
            sites = program.run(start)
        if drawn:
            check_drawn(program, start)
        return sites
    except EMError:
        raise
    except (IndexError, RuntimeError, ValueError) as error:
        check_starts(program, start)
        if "Boolean value of Tensor" not in str(error):
            if _runs_with_one_state(program, start):
                raise of_states(error, program.states) or _not_with_all(program, error) from error
            raise
        raise ModelError(
            f"The model: expected no `if` or `while` on a sampled value, got one ({error}). Compute both branches and "
            f"choose by torch.where."
        ) from error


def _runs_with_one_state(program: Program, start: Params) -> bool:
    """Tell whether the model runs where every latent is in its first state."""
    if not program.latents:
        return False
    first = [{n: latent.placed(latent.support[:1]) for n, latent in program.latents.items()}]
    first += [{n: latent.support[0] for n, latent in program.latents.items()}]  # without a dimension of its own
    for one in first:
        with contextlib.suppress(IndexError, RuntimeError, ValueError):
            program.run(start, one)
            return True
    return False


def _not_with_all(program: Program, error: Exception) -> ModelError:
    """Return the error of a model that does not run with all states of its latents at once."""
    some = list(program.states.items())[:6]
    remedy = (
        "Leave out .expand: a plate expands what is sampled inside, and states have a dimension more."
        if str(error).startswith("expand(")
        else "Give what is indexed by a latent (table[z], Vindex) an entry for each of its states, and use neither "
        ".item() nor a loop over its values."
    )
    states = ", ".join(f'"{user_site(name)}" ({size})' for name, size in some) + ", ..." * (len(program.states) > 6)
    return ModelError(
        f"The model: expected to run with all states of its latents at once, {states}, got {type(error).__name__}: "
        f"{error}. {remedy}"
    )


def check_value(parameter: Parameter, value: Tensor, what: str) -> None:
    """Raise a `ParameterError` unless a value has the parameter's shape and lies within its constraint."""
    if value.shape != parameter.initial.shape:
        raise ParameterError(
            f'Parameter "{parameter.name}": expected {what} of shape {tuple(parameter.initial.shape)}, got '
            f"{tuple(value.shape)}. Reshape it, or clear a store that another model has filled."
        )
    inside = parameter.constraint.check(value) & torch.isfinite(value).all() | _loosely_inside(parameter, value)
    if not bool(inside.all()):
        rows = getattr(parameter.constraint, "event_dim", 0) == 1 and bool(torch.isfinite(value).all())
        rows = rows and type(parameter.constraint).__name__.endswith("Simplex")
        sums = f" with rows that sum to {value.sum(-1).flatten()[:6].tolist()}, not to one" if rows else ""
        raise ParameterError(
            f'Parameter "{parameter.name}": expected {what} within {parameter.constraint}, got '
            f"{value.flatten()[:6].tolist()}{sums}. Change the value or the constraint."
        )


def _loosely_inside(parameter: Parameter, value: Tensor) -> Tensor:
    """Let infinite entries pass for a real parameter: they are what the logit of a structural zero looks like."""
    real = parameter.constraint is torch.distributions.constraints.real
    return torch.as_tensor(real and not bool(value.isnan().any()))


def write(program: Program, values: Mapping[str, Tensor]) -> None:
    """Leave `values` in the store, under the user's names; sites with a prior are no params and stay out."""
    store = pyro.get_param_store()
    for name, parameter in program.parameters.items():
        if parameter.kind == "prior":
            continue
        value = values[name].detach()
        if parameter.tensor is not None:
            with torch.no_grad():
                parameter.tensor.copy_(value)
            continue
        if name in store and store._params[name].is_inference():  # nothing may be written into it
            del store[name]
        point = transform_to(parameter.constraint).inv(_interior(parameter, value))
        if name not in store and name in program.registered:
            register(name, *program.registered[name])
        if name not in store:
            pyro.param(name, parameter.initial.clone(), constraint=parameter.constraint)
        with torch.no_grad():
            store._params[name].copy_(point)


@contextlib.contextmanager
def kept_on_error(program: Program) -> Iterator[None]:
    """Put the store, and the weights of modules, back as they were where what is done within raises an error."""
    put_back = _kept(program)
    try:
        yield
    except Exception:
        put_back()
        raise


@contextlib.contextmanager
def set_aside(program: Program) -> Iterator[None]:
    """Put the store, and the weights of modules, back as they were, whatever is done within."""
    put_back = _kept(program)
    try:
        yield
    finally:
        put_back()


def _kept(program: Program) -> Callable[[], None]:
    """Copy the store and the weights of modules; return what puts them back."""
    store = pyro.get_param_store()
    held = {n: (t, t.detach().clone(), store._constraints[n]) for n, t in store._params.items()}
    weights = [p.tensor for p in program.parameters.values() if p.tensor is not None]
    weights += [tensor for tensor, _ in program.registered.values()]
    before = [weight.detach().clone() for weight in weights]

    def put_back() -> None:
        for name in [name for name in store._params if name not in held]:
            del store[name]
        with torch.no_grad():
            for name, (tensor, value, constraint) in held.items():
                if name not in store._params:
                    register(name, tensor, constraint)
                _put(store._params[name], value)
            for weight, value in zip(weights, before, strict=True):
                _put(weight, value)

    return put_back


def _put(tensor: Tensor, value: Tensor) -> None:
    """Write into a tensor, unless the value is there already."""
    if not torch.equal(tensor, value):
        tensor.copy_(value)


def _interior(parameter: Parameter, value: Tensor) -> Tensor:
    """Move a boundary value inside where the store would call it invalid; elsewhere it stays exact."""
    value = value.to(parameter.initial.dtype)
    if isinstance(parameter.constraint, type(torch.distributions.constraints.positive_definite)):
        return _rooted(value)
    bound = getattr(parameter.constraint, "lower_bound", None)
    if bound is None or type(parameter.constraint).__name__ not in ("_GreaterThan", "_GreaterThanEq"):
        return value
    return torch.maximum(value, torch.as_tensor(bound).to(value) + MARGIN.get(value.dtype, 0.0))


def _rooted(value: Tensor) -> Tensor:
    """Give a covariance that has collapsed the smallest root that it can have beside the others."""
    if not bool(torch.linalg.cholesky_ex(value).info.any()):
        return value
    found, directions = torch.linalg.eigh(value)
    least = ROOTED * torch.finfo(value.dtype).eps * found.abs().amax(-1, keepdim=True)
    return (directions * torch.maximum(found, least).unsqueeze(-2)) @ directions.mT
