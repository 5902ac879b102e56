"""`dist.GaussianHMM` as statements of normal laws: its states, how they begin and move, and what is seen of them.

The distribution sums its states out in its own density. Taken apart, each of its arguments belongs to a normal site,
the states are normal latents, and the closed forms of linear state-space models are theirs. All steps of a chain are
rows of two plates, left of the others: `T` of moves and of what is seen, and one more of states, for Pyro's convention
puts a move before the first observation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..data.passed import observed
from ..handlers import name_of
from ..named import unwrap
from ..unroll import BEGIN, MOVES, STATES

TIMES, STEPS = ".times", ".steps"  # suffixes of the plates: of states, and of moves between them


class _Made(NamedTuple):
    """What a chain was made of, and the factor that holds for what is seen."""

    initial: Any
    transition: Tensor
    moves: Any
    observation: Tensor
    noise: Any
    seen: Any


@contextlib.contextmanager
def taken_apart() -> Iterator[None]:
    """Run a model with every observed `GaussianHMM` in its parts.

    A chain keeps products of what it was made of. While the model runs, chains remember that itself.
    """
    init = dist.GaussianHMM.__init__

    def remembering(
        self: Any,
        initial_dist: Any,
        transition_matrix: Tensor,
        transition_dist: Any,
        observation_matrix: Tensor,
        observation_dist: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        made = initial_dist, transition_matrix, transition_dist, observation_matrix, observation_dist
        init(self, *made, *args, **kwargs)
        self._trans.made = _Made(*made, self._obs)  # what expand() hands on

    dist.GaussianHMM.__init__ = remembering  # type: ignore[method-assign]
    try:
        with _Apart():
            yield
    finally:
        dist.GaussianHMM.__init__ = init  # type: ignore[method-assign]


class _Apart(Messenger):
    """State the parts of a chain in its place; whoever stands outside sees these only."""

    def _pyro_sample(self, msg: Any) -> None:
        inner = unwrap(msg["fn"])
        if not msg["is_observed"] or not isinstance(inner.base, dist.GaussianHMM) or inner.event_rank:
            return
        chain, value = inner.base, observed(msg["name"], msg["value"])
        made = getattr(chain._trans, "made", None)
        if made is None or made.seen is not chain._obs:  # another chain has been made of it since
            return
        steps, size = chain.event_shape
        if value.dim() < 2 or value.shape[-1] != size or steps not in (1, value.shape[-2]):
            return
        depth = max((-frame.dim for frame in msg["cond_indep_stack"] if frame.vectorized), default=0)
        _state(name_of(msg), made, value, inner.mask, -1 - depth)
        msg["stop"] = True


def _state(name: str, made: _Made, value: Tensor, mask: Tensor | None, dim: int) -> None:
    """State the parts of a chain, its steps along `dim`."""
    value = _along(value, 1, dim)
    steps, size = value.shape[dim - 1], made.observation.shape[-2]
    flat = dist.Normal(_loc(made.initial).new_zeros(size), 1.0).to_event(1).mask(False)  # noqa: FBT003
    with pyro.plate(name + TIMES, steps + 1, dim=dim):
        states = pyro.sample(name + STATES, flat)
    first, before, after = (states.narrow(dim - 1, *part) for part in ((0, 1), (0, steps), (1, steps)))
    pyro.sample(name + BEGIN, _masked(made.initial, mask), obs=first)
    with pyro.plate(name + STEPS, steps, dim=dim):
        for key, law, matrix, z, y in (
            (MOVES, made.moves, made.transition, before, after),
            ("", made.noise, made.observation, after, value),
        ):
            pyro.sample(name + key, _masked(_around(law, _times(z, _along(matrix, 2, dim)), dim), mask), obs=y)


def _loc(law: Any) -> Tensor:
    return _base(law).loc  # type: ignore[no-any-return]


def _base(law: Any) -> Any:
    return unwrap(law).base


def _along(part: Tensor, events: int, dim: int) -> Tensor:
    """Move the steps, the last dimension before the events, to `dim` of the batch, where the model has no dimension."""
    rows = part.dim() - events - 1
    if rows < 0:
        return part
    part = part.movedim(rows, 0)
    missing = -dim - rows
    if missing > 0:
        part = part.reshape((*part.shape[:1], *(1,) * missing, *part.shape[1:]))
    return part.squeeze(dim - events).movedim(0, dim - events)


def _times(states: Tensor, matrix: Tensor) -> Tensor:
    """Apply a matrix to the states of every row from the right."""
    return states @ matrix if matrix.dim() == 2 else (states.unsqueeze(-2) @ matrix).squeeze(-2)


def _around(law: Any, mean: Tensor, dim: int) -> Any:
    """Return the law of errors as that of values around a mean."""
    base, loc = _base(law), mean + _along(_loc(law), 1, dim)
    root = getattr(base, "_unbroadcasted_scale_tril", None)  # independent errors have none
    if root is None:
        return dist.Normal(loc, _along(base.scale, 1, dim)).to_event(1)
    return dist.MultivariateNormal(loc, scale_tril=_along(root, 2, dim))


def _masked(law: Any, mask: Tensor | None) -> Any:
    return law if mask is None else law.mask(mask)
