"""Parameters on their way into a step: entries, logs of probabilities, Cholesky factors, each worked out once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..program.named import Batch
from .bank import Bank

Of = TypeVar("Of")
LOWEST = -1e30  # a structural zero in log space; finite, because 0 * -inf is not 0 in a matrix product


def finite(eta: Tensor) -> Tensor:
    """Put `LOWEST` for minus infinity; a natural parameter in small units may be lower than that."""
    return eta.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=LOWEST)


@dataclass(eq=False)
class Bound:
    """The atoms of one set of parameter values, computed once a step, when asked for, and shared by all factors.

    There is no data in it: every chunk, file and process that holds rows is handed the same.

    Attributes:
        batch: parameter values, starts first.
        bank: which atoms the program uses.
        plain: whether the fastest forms are known to keep their digits here; None while nobody has looked. It is found
            with the other numbers of a step, so that a step waits for its device once.
        known: what `once` remembers.
        starts: how many there are.
    """

    batch: Batch
    bank: Bank
    plain: bool | None = None
    known: dict[tuple[int, Any], tuple[Any, Tensor]] = field(default_factory=dict, repr=False)
    starts: int = field(init=False)

    def __post_init__(self) -> None:
        """Count the starts."""
        self.starts = len(next(iter(self.batch.values()), (0,)))

    @cached_property
    def sources(self) -> Batch:
        """Parameters, and arguments that the model computes from them."""
        return self.batch if self.bank.computed is None else {**self.batch, **self.bank.computed(self.batch)}

    @cached_property
    def entries(self) -> Tensor:
        """Plain atoms."""
        return self.bank.values(self.sources)

    @cached_property
    def logs(self) -> Tensor:
        """Logarithms of probabilities, structural zeros as `LOWEST`."""
        return self.bank.logs(self.sources).clamp(min=LOWEST)

    @cached_property
    def log_complements(self) -> Tensor:
        """Logarithms of one minus the probabilities."""
        return self.bank.logs(self.sources, complement=True).clamp(min=LOWEST)

    def excess(self, factor: Any) -> Tensor | None:
        """What is added to the first natural parameter of every cell of a site: nothing at points.

        Under laws in place of points it is what the expectation of a logarithm has beyond the logarithm of what the
        other arguments are bound to, (starts, or one) + cells + events.
        """
        return None

    def spread(self, factor: Any) -> Tensor | None:
        """Covariance of the coefficients of a site that is linear in covariates: none at points.

        Under laws, cells + events + (J, J).
        """
        return None

    @cached_property
    def matrices(self) -> Tensor:
        """Cholesky factors."""
        return self.bank.stack(self.sources)


def once(compute: Callable[[Of, Bound], Tensor]) -> Callable[[Of, Bound], Tensor]:
    """Work something out once for every object and binding: a step leads to where the next one starts.

    Objects are known by their identity, and forgotten when they are gone: a batch of rows must not live on in here.
    """

    @wraps(compute)
    def remembered(of: Of, bound: Bound) -> Tensor:
        key, known = (id(of), compute), bound.known
        if key not in known:
            known[key] = weakref.ref(of, lambda _: known.pop(key, None)), compute(of, bound)
        return known[key][1]

    return remembered
