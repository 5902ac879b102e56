"""What the hidden Markov models share: start values, lengths, and the walk along the chain."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from .start import real, spread, spread_rows, uniform, usable

Emit = Callable[[int, Tensor], None]
"""Sample what is seen at time `t` in a given state: any number of sites."""

Step = Callable[[int, Tensor], dist.Categorical]
"""The law of the state at time `t`, given the state before."""


def walk(y: Tensor, lengths: Tensor | None, initial: Tensor, step: Step, emit: Emit) -> None:
    """Walk along `N` chains at once, each to its own end.

    Args:
        y: observations, shape `(N, T, ...)`; only the shape matters here.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        initial: law of the first state, shape `(S,)`.
        step: law of a later state.
        emit: samples what is seen.
    """
    steps = inside(y, lengths)
    with pyro.plate("sequence", len(y)):
        state = torch.empty(0)
        for t in pyro.markov(range(y.shape[1])):
            mask = cast(torch.BoolTensor, steps[:, t])
            with nullcontext() if lengths is None else poutine.mask(mask=mask):
                state = pyro.sample(f"state_{t}", step(t, state) if t else dist.Categorical(initial))
                emit(t, state)


def homogeneous(y: Tensor, lengths: Tensor | None, S: int, emit: Emit) -> None:
    """Walk with params `initial` `(S,)` and `transition` `(S, S)`, the same at all times."""
    initial, transition = initial_law(S, y), transition_matrix(S, y)
    walk(y, lengths, initial, lambda t, state: dist.Categorical(transition[state]), emit)


def inside(y: Tensor, lengths: Tensor | None) -> Tensor:
    """Say which steps belong to a sequence, shape `(N, T)`, for `y` of shape `(N, T, ...)`."""
    if lengths is None:
        return torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)
    return torch.arange(y.shape[1], device=y.device) < lengths[:, None]


def initial_law(S: int, y: Tensor) -> Tensor:
    """Declare the param `initial`, shape `(S,)`, starting uniform."""
    return pyro.param("initial", uniform(S, y), constraint=constraints.simplex)


def transition_matrix(S: int, y: Tensor) -> Tensor:
    """Declare the param `transition`, shape `(S, S)`, starting sticky."""
    return pyro.param("transition", lambda: sticky(S, y), constraint=constraints.simplex)


def sticky(S: int, y: Tensor) -> Tensor:
    """Stay with probability 0.8, or else go anywhere: shape `(S, S)`, rows sum to one."""
    even = uniform(S, y)
    return 0.2 * even + 0.8 * torch.eye(S, dtype=even.dtype, device=even.device)


def stationary_law(transition: Tensor) -> Tensor:
    """Solve `delta (I - transition + 1) = 1`; Zucchini & MacDonald (2009), section 1.3.2."""
    one = torch.ones_like(transition[0])
    matrix = torch.eye(len(one), dtype=one.dtype, device=one.device) - transition + 1
    return torch.linalg.solve(matrix.T, one)


def normal(y: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """Declare the params `loc` and `scale` of normal emissions, `(S,)` or `(S, D)`, from data `(M,)` or `(M, D)`."""
    y = real(y)
    loc = pyro.param("loc", lambda: spread(y, S) if y.dim() == 1 else spread_rows(y, S))
    start = usable(y.std(0) / S).expand(loc.shape).clone()
    return loc, pyro.param("scale", start, constraint=constraints.positive)
