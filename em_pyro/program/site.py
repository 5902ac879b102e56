"""What a program is made of: its parameters, its enumerated latents and its sites, as plain records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .named import Named, squeeze, unwrap


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
        """Return the unscaled log-density; masked entries are zero, but an enumerated latent keeps its prior."""
        value, inner = self.value, unwrap(self.fn).mask
        if (self.mask is not None or inner is not None) and not bool(torch.isfinite(value).all()):
            finite = torch.isfinite(value)
            value = torch.where(finite, value, value[finite].reshape(-1)[0] if finite.any() else value.new_ones(()))
        log_prob = self.fn.log_prob(value)
        if self.mask is not None and self.role != "latent":
            log_prob = torch.where(self.mask, log_prob, log_prob.new_zeros(()))
        return squeeze(log_prob, self.dims, self.name)


@dataclass(frozen=True)
class Run:
    """What one run of a model did."""

    sites: dict[str, Site]
    frames: dict[str, Any]  # Pyro's frame of every plate
    stated: dict[str, Any]  # by parameter: its initial value as the model states it, a tensor or a function
