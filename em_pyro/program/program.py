"""Run an ordinary Pyro model under given parameter values, and name what it did.

A `Program` (found by `survey.survey`) replays its model with every discrete latent expanded over its support in a
tensor dimension of its own and every parameter given, and returns one `Site` per sample statement. Nothing here writes
to the param store or moves a global generator. Together with `survey.py` this is the only file that touches Pyro's
handlers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from ..errors import ModelError
from .devices import visiting
from .indices import handed_out
from .named import Named, Params, squeeze, unwrap


@dataclass(frozen=True)
class Parameter:
    """One thing that is fitted: a `pyro.param`, a weight of a `pyro.module`, or a latent site with a prior."""

    name: str
    kind: str  # "param" | "module" | "prior"
    constraint: Any
    initial: Tensor  # what `pyro.param` returns on an empty store; for a prior, one draw from it
    random: Callable[[], Tensor] | None = field(default=None, repr=False)  # the initialiser, if it was a callable
    tensor: Tensor | None = field(default=None, repr=False)  # the torch.nn.Parameter itself, for kind "module"


@dataclass(frozen=True)
class Latent:
    """An enumerated site: its tensor dimension, its support and the plates that own it."""

    name: str
    dim: int
    support: Tensor = field(repr=False)  # shape (K,) + event shape
    plates: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of states `K`."""
        return len(self.support)


@dataclass(frozen=True)
class Site:
    """One sample statement of one run, as it stood before any `log_prob` was computed."""

    name: str
    role: str  # "observed" | "latent" | "prior"
    fn: Distribution = field(repr=False)
    value: Tensor = field(repr=False)
    plates: tuple[str, ...]  # the vectorised plates around it, left to right
    dims: Mapping[int, str] = field(repr=False)  # tensor dimension -> the plate or latent that lives there
    scale: float | Tensor = field(repr=False)
    mask: Tensor | None = field(repr=False)

    def log_prob(self) -> Named:
        """Unscaled log-density by name; masked entries are zero, except that an enumerated latent keeps its prior."""
        value, inner = self.value, unwrap(self.fn).mask
        if (self.mask is not None or inner is not None) and not bool(torch.isfinite(value).all()):
            finite = torch.isfinite(value)
            value = torch.where(finite, value, value[finite].reshape(-1)[0] if finite.any() else value.new_ones(()))
        log_prob = self.fn.log_prob(value)
        if self.mask is not None and self.role != "latent":
            log_prob = torch.where(self.mask, log_prob, log_prob.new_zeros(()))
        return squeeze(log_prob, self.dims, self.name)


@dataclass(frozen=True)
class Program:
    """A model with its arguments: what it samples, what it enumerates and what can be fitted."""

    model: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)
    parameters: Mapping[str, Parameter]
    latents: Mapping[str, Latent]
    plates: Mapping[str, int]
    plate_dims: Mapping[str, int] = field(repr=False)  # plate -> tensor dimension
    upstream: Mapping[str, frozenset[str]] = field(repr=False)  # site -> latents that it may depend on
    registered: Mapping[str, tuple[Tensor, Any]] = field(default_factory=dict, repr=False)
    """Unconstrained tensors that a PyroModule would put into the store by itself, with their constraints."""
    view: Callable[[dict[str, Site]], dict[str, Site]] | None = field(default=None, repr=False)
    """How the sites of a run are to be seen: a `DiscreteHMM` taken apart."""
    indices: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False, compare=False)
    """What plates hand out, by size and device."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and with them the data."""
        return next((parameter.initial.device for parameter in self.parameters.values()), torch.device("cpu"))

    def run(self, values: Params, states: Params | None = None) -> dict[str, Site]:
        """Replay the model at `values`, enumerated; a latent named in `states` takes that value instead.

        Returns:
            The sites by name, in the order sampled. Gradients flow to `values` (to the weights of a module, only
            inside `self.given(values)`).
        """
        values = {name: value.to(self.parameters[name].initial.dtype) for name, value in values.items()}
        handler = _Replay(self, values, states or {})
        with quiet(), untouched_store(), self.given(values), visiting(), handler:
            self.model(*self.args, **self.kwargs)
        missing = [name for name in self.upstream if name not in handler.sites]
        if missing:
            raise _unstable(missing[0], "it was missing in this one")
        return handler.sites if self.view is None else self.view(handler.sites)

    def indices_of(self, rows: Any) -> Tensor:
        """The indices that a plate hands out, the same tensor in every run."""
        key = rows.size, str(rows.device)
        if key not in self.indices:
            self.indices[key] = handed_out(rows)
        return self.indices[key]

    @contextlib.contextmanager
    def given(self, values: Params) -> Iterator[None]:
        """Swap `values` into the weights of `pyro.module`s, which no handler reaches, and restore them at the end."""
        weights = [(p.tensor, values[n]) for n, p in self.parameters.items() if p.tensor is not None and n in values]
        saved = [tensor.data for tensor, _ in weights]
        try:
            for tensor, value in weights:
                tensor.data = value.detach()
            yield
        finally:
            for (tensor, _), data in zip(weights, saved, strict=True):
                tensor.data = data


class _Replay(Messenger):
    """Give parameters their values and latents their support; record every sample statement."""

    def __init__(self, program: Program, values: Params, states: Params) -> None:
        super().__init__()
        self.program, self.values, self.states = program, values, states
        self.sites: dict[str, Site] = {}

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] not in self.values:
            raise _unstable(msg["name"], "it is new in this one")
        weight = self.program.parameters[msg["name"]].tensor
        msg["value"], msg["done"] = self.values[msg["name"]] if weight is None else weight, True

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["value"] is None:
            msg["value"], msg["done"] = self.program.indices_of(msg["fn"]), True
        if is_subsample(msg) or msg["is_observed"] or msg["done"]:
            return
        name, latents = msg["name"], self.program.latents
        if name in self.states:
            value = self.states[name]
        elif name in latents:
            support = latents[name].support
            value = support.reshape((len(support),) + (1,) * (-latents[name].dim - 1) + support.shape[1:])
        elif name in self.values:
            value = self.values[name]
        else:
            raise _unstable(name, "it is new in this one")
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name, latents = msg["name"], self.program.latents
        if name not in self.program.upstream:
            raise _unstable(name, "it is new in this one")
        plates = {frame.dim: frame.name for frame in msg["cond_indep_stack"] if frame.vectorized}
        dims = {latents[key].dim: key for key in self.program.upstream[name]} | plates
        role = "observed" if msg["is_observed"] else "latent" if name in latents else "prior"
        mask = msg["mask"] if msg["mask"] is None else torch.as_tensor(msg["mask"])
        names = tuple(plates[dim] for dim in sorted(plates))
        self.sites[name] = Site(name, role, msg["fn"], msg["value"], names, dims, msg["scale"], mask)


class Substitute(Messenger):
    """Give every `pyro.param` its fitted value, and every site with a prior its mode."""

    def __init__(self, values: Params) -> None:
        """Take the fitted values, by name."""
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["is_observed"] = self.values[msg["name"]], True


def _unstable(name: str, what: str) -> ModelError:
    return ModelError(
        f'Site "{name}": expected the same statements in every run of the model, but {what}. '
        f"Let no `if` or loop of the model depend on a sampled value or a parameter."
    )


def is_subsample(msg: Any) -> bool:
    """Tell the index site of a plate from a sample statement of the user."""
    return type(msg["fn"]).__name__ == "_Subsample"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run without Pyro's validation (ours speaks of sites) and without moving a global generator."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with pyro.validation_enabled(is_validate=False), torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def untouched_store() -> Iterator[dict[str, tuple[Tensor, Any]]]:
    """Remove and yield whatever a run of the model registers in the param store (a PyroModule does so by itself)."""
    store = pyro.get_param_store()
    before, found = set(store._params), dict[str, tuple[Tensor, Any]]()
    try:
        yield found
    finally:
        for name in set(store._params) - before:
            found[name] = store._params[name], store._constraints[name]
            del store[name]


def register(name: str, tensor: Tensor, constraint: Any) -> None:
    """Put a module's own unconstrained tensor into the store, as the module does."""
    store = pyro.get_param_store()
    store._params[name], store._constraints[name], store._param_to_name[tensor] = tensor, constraint, name
