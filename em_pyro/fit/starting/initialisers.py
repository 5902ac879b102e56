"""What the user's initialisers draw: a function is random if another seed makes it return another value."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import transform_to

from ...program.devices import seed_generators, visiting
from ...program.handlers import quiet
from ...program.program import Program
from ...program.site import Parameter
from ...program.store import check_value

SEEDS = 4  # tried before a function counts as one that always returns the same: a random permutation may repeat itself
ROUNDED = 1e-5  # of the sum of a simplex in single precision


def varying(program: Program, names: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return the parameters whose initialiser is a function that draws: what it returns depends on the seed."""
    left = [name for name in names if program.parameters[name].random is not None]
    if not left:
        return ()
    first = redrawn(program, left, seed)
    found = set[str]()
    for other in range(1, SEEDS):
        again = redrawn(program, [name for name in left if name not in found], seed + other)
        found |= {name for name, value in again.items() if not torch.equal(value, first[name])}
    return tuple(name for name in left if name in found)


def redrawn(program: Program, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Call the initialisers of some parameters, in order, from a seed of their own; no global generator moves.

    Raises:
        ParameterError: one returns another shape than before, or a value outside its constraint.
    """
    with _own_seed(seed):
        return {name: _called(program.parameters[name]) for name in names}


def _called(parameter: Parameter) -> Tensor:
    """Call an initialiser; what Pyro carries into the constraint (a simplex that does not sum to one) is carried."""
    assert parameter.random is not None
    with visiting():
        value = in_double(parameter, torch.as_tensor(parameter.random()).detach())
    if not bool(parameter.constraint.check(value).all()):
        to = transform_to(parameter.constraint)
        value = to(to.inv(value))
    check_value(parameter, value, "what its initialiser returns")
    return value


def in_double(parameter: Parameter, value: Tensor) -> Tensor:
    """Return a value in float64; a simplex of single precision sums to one there, else its likelihood would be off."""
    exact, event = value.double(), getattr(parameter.constraint, "event_dim", 0)
    if value.dtype == torch.float64 or event != 1 or not type(parameter.constraint).__name__.endswith("Simplex"):
        return exact
    total = exact.sum(-1, keepdim=True)
    return torch.where((total - 1).abs() < ROUNDED, exact / total, exact)


@contextlib.contextmanager
def _own_seed(seed: int) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python, and restore them at the end."""
    kept = random.getstate(), np.random.get_state()
    try:
        with quiet():
            seed_generators(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
