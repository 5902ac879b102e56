"""What a program is made of: its parameters, its enumerated latents and its sites, as plain records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..errors import ModelError
from ..records.frozen import frozen
from .data.counts import density
from .data.supports import inside, lawful
from .named import Named, broadcast, squeeze, unwrap


@frozen
class Parameter:
    """One thing that is fitted: a `pyro.param`, a weight of a `pyro.module`, or a latent site with a prior."""

    name: str
    kind: str  # "param" | "module" | "prior"
    constraint: Any
    initial: Tensor  # what `pyro.param` returns on an empty store; for a prior, one draw from it
    random: Callable[[], Tensor] | None = field(default=None, repr=False)  # the initialiser, if it was a callable
    tensor: Tensor | None = field(default=None, repr=False)  # the torch.nn.Parameter itself, for kind "module"
    stated: tuple[int, ...] | None = None  # of a fitted one, the shape of the initial value that other rows state


@frozen
class Latent:
    """An enumerated site: its tensor dimension, its support and the plates that own it."""

    name: str
    dim: int
    support: Tensor = field(repr=False)  # shape (K,) + event shape
    plates: tuple[str, ...] = ()
    rank: int = 0  # batch dimensions of its value, those of no plate included

    @property
    def size(self) -> int:
        """Number of states `K`."""
        return len(self.support)

    def placed(self, states: Tensor) -> Tensor:
        """Return some of the states along the latent's own dimension."""
        return states.reshape((len(states),) + (1,) * (-self.dim - 1) + states.shape[1:])


@frozen
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its log-density, which is not computed."""
        shapes = [self.fn.batch_shape, self.value.shape[: self.value.dim() - len(self.fn.event_shape)]]
        if self.mask is not None and self.role != "latent":
            shapes.append(self.mask.shape)
        return squeeze(torch.empty(()).expand(broadcast(*shapes)), self.dims, self.name).names

    @property
    def once(self) -> bool:
        """Whether every row counts once, as without `poutine.scale`."""
        return not isinstance(self.scale, Tensor) and self.scale == 1

    @property
    def row_weights(self) -> Named:
        """How often every row counts (`poutine.scale`), along the plates in which that differs."""
        return squeeze(torch.as_tensor(self.scale, dtype=torch.float64), self.dims, self.name)

    def log_prob(self) -> Named:
        """Return the unscaled log-density; masked entries are zero, but an enumerated latent keeps its prior."""
        value, inner = self.value, unwrap(self.fn).mask
        if (self.mask is not None or inner is not None) and value.is_floating_point() and value.numel():
            value = _filled(value)
        counts = density(self.fn, value) if self.role == "observed" else None
        try:
            log_prob = unvalidated(self.fn, value) if counts is None else counts
        except NotImplementedError as error:
            kind = type(unwrap(self.fn).base).__name__
            raise ModelError(
                f'Site "{self.name}": expected a distribution that has a density, got {kind} ({error}). Write it as '
                f"sites that have one, or convert it by pyro.infer.reparam."
            ) from error
        if self.role == "observed":
            log_prob = inside(self.fn, log_prob, value)
        if self.role != "prior":
            log_prob = lawful(self.fn, log_prob)
        if self.mask is not None and self.role != "latent":
            log_prob = torch.where(self.mask, log_prob, log_prob.new_zeros(()))
        return squeeze(log_prob, self.dims, self.name)


def of_rows(site: Site, dim: int) -> bool:
    """Tell whether a dimension of the arguments, counted from the end, is one of rows, and no latent's."""
    rank = unwrap(site.fn).event_rank
    return dim >= -rank or site.dims.get(dim + rank, "") in site.plates


def unvalidated(fn: Distribution, value: Tensor) -> Tensor:
    """Return the log-density, also of values that lie outside the support in some states of the latents."""
    validating = Distribution._validate_args  # type: ignore[attr-defined]
    Distribution.set_default_validate_args(False)  # noqa: FBT003
    try:
        return fn.log_prob(value)
    finally:
        Distribution.set_default_validate_args(validating)


def _filled(value: Tensor) -> Tensor:
    """Put a value that is there in the place of those that are not finite, without a branch: values may be followed."""
    finite = torch.isfinite(value)
    largest = torch.where(finite, value.detach(), -torch.inf).amax()
    return torch.where(finite, value, torch.where(largest.isfinite(), largest, 1.0))


@frozen
class Run:
    """What one run of a model did."""

    sites: dict[str, Site]
    frames: dict[str, Any]  # Pyro's frame of every plate
    stated: dict[str, Any]  # by parameter: its initial value as the model states it, a tensor or a function
