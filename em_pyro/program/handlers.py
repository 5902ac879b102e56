"""What surrounds a run of the user's model: no trace in the param store, whole plates, fixed values, all states."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.primitives import _masked_observe  # what makes two sites of one with an obs_mask
from torch import Tensor
from torch.distributions import constraints, transform_to

from ..errors import DataError, EMError, ModelError
from .devices import untouched_generators
from .named import Params, unwrap

EMPTY = 'Plate "{}": expected at least one row, got none. Pass data.'

POINT = "Delta"  # a law of one value
LABELS = "[labels]"  # suffix of what is known of a partly observed site

Indices = dict[tuple[int, Any, str], Tensor]
"""What plates hand out, by size, size of a subsample and device."""


_FREE = threading.RLock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Work while no other thread does, for Pyro's handlers are global; and outside `torch.inference_mode`.

    Raises:
        EMError: another thread is at work.
    """
    if not _FREE.acquire(blocking=False):
        raise EMError(
            "EM: expected one thread at work at a time, got a call from another one. Pyro's handlers and its param "
            "store are global: call one after another, or from several processes."
        )
    try:
        with torch.inference_mode(mode=False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
            yield
    finally:
        _FREE.release()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Look for no cycles of garbage: a plan keeps nearly all that it makes, and every look walks through it again."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


class Substitute(Messenger):
    """Give every `pyro.param` its fitted value, and every site with a prior its mode."""

    def __init__(self, values: Params) -> None:
        """Take the fitted values, by name."""
        super().__init__()
        self.values, self.constraints = values, dict[str, Any]()  # that of the first statement of each

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values and not is_given(msg):
            options = dict(zip(("init_tensor", "constraint"), msg["args"][1:], strict=False)) | msg["kwargs"]
            constraint = self.constraints.setdefault(msg["name"], options.get("constraint", constraints.real))
            msg["value"], msg["done"] = handed_out(self.values[msg["name"]], constraint), True

    def _pyro_sample(self, msg: Any) -> None:
        if name_of(msg) in self.values and not msg["is_observed"]:
            msg["value"], msg["is_observed"] = self.values[name_of(msg)], True


class Weights(Messenger):
    """Swap fitted values into the weights of modules when these are declared, and put the old ones back at the end."""

    def __init__(self, values: Params) -> None:
        """Take the fitted values, by name."""
        super().__init__()
        self.values, self.swapped = values, list[tuple[Tensor, Tensor]]()

    def _pyro_param(self, msg: Any) -> None:
        if is_given(msg):
            return
        weight = next(iter(msg["args"][1:]), msg["kwargs"].get("init_tensor"))
        if isinstance(weight, torch.nn.Parameter) and msg["name"] in self.values:
            self.swapped.append((weight, weight.data))
            weight.data = self.values[msg["name"]].to(weight)

    def __exit__(self, *error: Any) -> None:
        """Put the old weights back."""
        for weight, data in reversed(self.swapped):
            weight.data = data
        self.swapped.clear()
        super().__exit__(*error)


def is_given(msg: Any) -> bool:
    """Tell whether a handler of the model's own (`poutine.substitute`) has given a `pyro.param` statement its value."""
    return msg["done"] or msg["value"] is not None


def is_subsample(msg: Any) -> bool:
    """Tell the index site of a plate from a sample statement of the user."""
    return type(msg["fn"]).__name__ == "_Subsample"


def name_of(msg: Any) -> str:
    """Return the user's name of a sample statement.

    Of one with an `obs_mask` Pyro makes two, called `z_observed` and `z_unobserved`: here they are `z` + `LABELS`, and
    `z`. A user may have written such a name too, so that what tells is who made the statement.
    """
    name: str = msg["name"]
    user, _, half = name.rpartition("_")
    frame = sys._getframe() if half in ("observed", "unobserved") else None
    while frame is not None and frame.f_code is not _masked_observe.__code__:
        frame = frame.f_back
    if frame is None or not user.endswith(frame.f_locals["name"]):  # a handler may put a prefix before it
        return name
    return user + LABELS if half == "observed" else user


def indices_of(rows: Any, made: Indices) -> Tensor:
    """Return the indices that a plate hands out (`rows` is Pyro's `_Subsample`), and keep them in `made`.

    A plate asks for them in every run of the model: of ten million rows they are 80 MB, and the time to write these.
    """
    key = rows.size, rows.subsample_size, str(rows.device)
    if key not in made:
        made[key] = rows.sample()
    return made[key]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run without Pyro's validation (ours speaks of sites) and without moving a global generator."""
    with pyro.validation_enabled(is_validate=False), untouched_generators():
        yield


@contextlib.contextmanager
def untouched_store() -> Iterator[dict[str, tuple[Tensor, Any]]]:
    """Remove and yield whatever a run of the model registers in the param store (a PyroModule does so by itself)."""
    store = pyro.get_param_store()
    before, found = set(store._params), dict[str, tuple[Tensor, Any]]()
    try:
        yield found
    finally:
        for name in set(store._params) - before:  # a decorated PyroParam leaves the constraint to pyro.param
            found[name] = store._params[name], store._constraints.setdefault(name, constraints.real)
            del store[name]


def as_computed(msg: Any) -> None:
    """Give a statement of a point mass that is not observed the value of that point, as `pyro.deterministic` does."""
    if msg["is_observed"] or msg["done"]:
        return
    base: Any = unwrap(msg["fn"]).base
    if type(base).__name__ == POINT and not bool((base.log_density != 0).any()):
        msg["value"], msg["done"], msg["is_observed"] = msg["fn"].rsample(), True, True
        msg["infer"] = {**msg["infer"], "_deterministic": True}


def handed_out(value: Tensor, constraint: Any) -> Tensor:
    """Return the value of a parameter as `pyro.param` does: a PyroModule asks it for its unconstrained one."""
    value.unconstrained = partial(_unconstrained, value.detach(), constraint)  # type: ignore[attr-defined]
    return value


def _unconstrained(value: Tensor, constraint: Any) -> Tensor:
    return transform_to(constraint).inv(value)  # type: ignore[no-any-return]


def register(name: str, tensor: Tensor, constraint: Any) -> None:
    """Put a module's own unconstrained tensor into the store, as the module does."""
    store = pyro.get_param_store()
    store._params[name], store._constraints[name], store._param_to_name[tensor] = tensor, constraint, name


@contextlib.contextmanager
def no_empty_plate() -> Iterator[None]:
    """Raise a `DataError` that names the plate where the model makes an empty one."""
    try:
        yield
    except ZeroDivisionError as error:
        if "size cannot be zero" not in str(error):
            raise
        raise DataError(EMPTY.format(local(error, "name"))) from error


def refuse_part(frame: Any) -> None:
    """Raise where a plate (a frame of Pyro's `cond_indep_stack`) is empty, has no size or hands out a subsample."""
    if frame.size == 0:
        raise DataError(EMPTY.format(frame.name))
    if frame.size < 0:  # Pyro's own sign of a plate whose size is not said
        raise ModelError(
            f'Plate "{frame.name}": expected a size, got none. Say how many rows there are: '
            f'pyro.plate("{frame.name}", len(data)).'
        )
    if frame.full_size is not None and frame.full_size != frame.size:
        raise ModelError(
            f'Plate "{frame.name}": expected all {frame.full_size} rows, got a subsample of {frame.size}. '
            f"Exact EM sums over all rows: drop subsample_size, or pass each batch to EM.step."
        )


def support(msg: Any) -> Tensor:
    """Return all values of a discrete latent, shape `(K,) + (1,) * batch dims + event shape`."""
    fn, infer, name = msg["fn"], msg["infer"], name_of(msg)
    if infer.get("enumerate") == "sequential" or infer.get("num_samples"):
        got = "sequential enumeration" if infer.get("enumerate") == "sequential" else "num_samples"
        raise ModelError(
            f'Site "{name}": expected parallel enumeration, got {got}. Drop it from infer=: every discrete latent is '
            f"enumerated in parallel by itself."
        )
    if not fn.has_enumerate_support:
        kind, remedy = type(unwrap(fn).base).__name__, "Truncate it to a Categorical over the values that matter"
        if unwrap(fn).base.has_enumerate_support:
            kind = f"{kind} with an event of shape {tuple(fn.event_shape)}"
            remedy = "Sample its entries one by one, in a plate or a loop, without to_event"
        elif msg["name"] != name:  # what an obs_mask leaves open
            kind = f"an obs_mask on {kind}"
            remedy = "A value on which nothing depends is left out by fn.mask(observed)"
        raise ModelError(f'Site "{name}": expected a discrete latent with a finite support, got {kind}. {remedy}.')
    try:
        found = fn.enumerate_support(expand=False)
    except NotImplementedError as error:
        raise ModelError(
            f'Site "{name}": expected one support for all rows, got {type(unwrap(fn).base).__name__} with a support '
            f"that differs by row ({error}). Use a Categorical over the largest support, with logits -inf."
        ) from error
    if not len(found):
        raise ModelError(f'Site "{name}": expected at least one state, got none. Give it K >= 1 of them.')
    return found


def states(support: Tensor, event_shape: torch.Size) -> Tensor:
    """Drop the batch dimensions of an enumerated support, all of size one: shape `(K,)` + `event_shape`."""
    return support.reshape((len(support), -1, *event_shape))[:, 0]


def local(error: BaseException, name: str) -> object:
    """Return a local variable of the innermost call that has it, where an error was raised."""
    found, trace = None, error.__traceback__
    while trace is not None:
        found = trace.tb_frame.f_locals.get(name, found)
        trace = trace.tb_next
    return found
