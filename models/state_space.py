"""State space models: a level, a level with a trend, and linear dynamical systems, seen through noise.

    state_0 -----> state_1 -----> state_2 -----> ...
       |              |              |
       v              v              v
      y_0            y_1            y_2

A state moves on by a known or an unknown linear map and is disturbed by normal noise; what is seen is a linear function
of it, with normal noise again. Steps that were not seen are left out.

The first level has a flat prior: `mask(False)` leaves its density out, so that the likelihood is the diffuse one of the
textbooks. The states of a linear dynamical system are determined up to a linear map; they are standard normal at first,
and are disturbed by standard normal noise.

Closed form: `level`, `slope`, `noise` (Normal scales), `transition` and `emission` (least squares on expected states).

Data: `load("nile")`, the flow of the Nile from 1871 to 1970 (Durbin & Koopman, section 2.2.5); simulated.

References:
    Shumway, R. H. and Stoffer, D. S. (1982). An approach to time series smoothing and forecasting using the EM
    algorithm. Journal of Time Series Analysis 3, 253-264.
    Durbin, J. and Koopman, S. J. (2012). Time Series Analysis by State Space Methods. Oxford University Press.
    Ghahramani, Z. and Hinton, G. E. (1996). Parameter estimation for linear dynamical systems. University of Toronto,
    CRG-TR-96-2.
"""

from contextlib import nullcontext
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from .chains import inside
from .seeded import seeded
from .start import axes, count, filled, real, usable


def local_level(y: Tensor, seen: Tensor | None = None) -> None:
    """See a random walk through noise.

    Params: `level` `()`, the scale of its steps, and `noise` `()`. Sites: `level_t` (latent), `y_t`.

    Args:
        y: a series, shape `(T,)`.
        seen: which steps were seen, shape `(T,)`, bool; all if not given. The others may hold any number, or NaN.
    """
    y = real(y)
    step, noise = _scale("level", y, seen, 0.5), _scale("noise", y, seen, 0.5)
    level = y.new_zeros(())
    for t in pyro.markov(range(len(y))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, step) if t else _flat(level))
        _see(t, dist.Normal(level, noise), y, seen)


def local_linear_trend(y: Tensor, seen: Tensor | None = None) -> None:
    """See a random walk through noise, whose slope is a random walk too.

    Params: `level`, `slope` and `noise`, all `()`. Sites: `level_t`, `slope_t` (latent), `y_t`. Args as `local_level`.
    """
    y = real(y)
    step, bend, noise = _scale("level", y, seen, 0.5), _scale("slope", y, seen, 0.1), _scale("noise", y, seen, 0.5)
    level = slope = y.new_zeros(())
    for t in pyro.markov(range(len(y))):
        laws = (dist.Normal(level + slope, step), dist.Normal(slope, bend)) if t else (_flat(level), _flat(slope))
        level, slope = pyro.sample(f"level_{t}", laws[0]), pyro.sample(f"slope_{t}", laws[1])
        _see(t, dist.Normal(level, noise), y, seen)


def linear_dynamical_system(y: Tensor, k: int = 1, lengths: Tensor | None = None) -> None:
    """See `N` sequences of states of `k` numbers through noise.

    Params: `transition` `(k, k)`, `emission` `(D, k)`, `loc` `(D,)`, `noise` `(D,)`. Sites: `state_t` (latent, a vector
    of `k` a sequence), `y_t`.

    Args:
        y: shape `(N, T, D)`; anything valid after the end of a sequence.
        k: size of the state.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
    """
    y, k, steps = real(y), count(k), inside(y, lengths)
    loc = pyro.param("loc", lambda: filled(y[steps]).mean(0))
    transition = pyro.param("transition", lambda: 0.5 * torch.eye(k, dtype=y.dtype, device=y.device))
    emission = pyro.param("emission", lambda: axes(filled(y[steps]), k))
    noise = pyro.param("noise", lambda: 0.5 * usable(filled(y[steps]).std(0)), constraint=constraints.positive)
    state = y.new_zeros(k)
    with pyro.plate("sequence", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            mask = cast(torch.BoolTensor, steps[:, t])
            with nullcontext() if lengths is None else poutine.mask(mask=mask):
                state = pyro.sample(f"state_{t}", dist.Normal(state @ transition.T, 1.0).to_event(1))
                pyro.sample(f"y_{t}", dist.Normal(state @ emission.T + loc, noise).to_event(1), obs=y[:, t])


def _scale(name: str, y: Tensor, seen: Tensor | None, share: float) -> Tensor:
    return pyro.param(name, lambda: share * usable(filled(y, seen).std()), constraint=constraints.positive)


def _flat(loc: Tensor) -> Any:
    """Return a law without a density."""
    return dist.Normal(loc, 1.0).mask(False)  # noqa: FBT003 - Pyro's own argument


def _see(t: int, law: dist.Normal, y: Tensor, seen: Tensor | None) -> None:
    pyro.sample(f"y_{t}", law if seen is None else law.mask(seen[t]), obs=y[t])


def simulate(T: int = 60, missing: float = 0.0, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor | None]:
    """Draw a random walk with steps of 1, seen through noise of 2.

    Args:
        T: number of steps.
        missing: probability that a step was not seen; it is NaN then.
        seed: a seed or a generator.

    Returns:
        `y` `(T,)` and which steps were `seen`, None if nothing can be missing: the arguments of `local_level`.
    """
    with seeded(seed):
        y = 10 + torch.randn(T).cumsum(0) + 2 * torch.randn(T)
        seen = torch.rand(T) >= missing
        return (y, None) if not missing else (y.masked_fill(~seen, torch.nan), seen)


def simulate_trend(T: int = 60, seed: int | torch.Generator = 0) -> Tensor:
    """Draw a walk with a slope that is a walk with steps of 0.3, seen through noise of 2: `y` `(T,)`."""
    with seeded(seed):
        slope = 1 + (0.3 * torch.randn(T)).cumsum(0)
        return (slope + 0.5 * torch.randn(T)).cumsum(0) + 2 * torch.randn(T)


def simulate_system(N: int = 5, T: int = 30, seed: int | torch.Generator = 0) -> tuple[Tensor, int, Tensor]:
    """Draw `N` sequences of half `T` to `T` steps from a slowly turning state of two numbers, seen as three.

    Returns:
        `y` `(N, T, 3)`, zero after the end, the size `k` of the state, and `lengths` `(N,)`.
    """
    with seeded(seed):
        lengths = torch.randint((T + 1) // 2, T + 1, (N,))
        lengths[0] = T
        transition = torch.tensor([[0.8, 0.4], [-0.4, 0.8]])
        emission = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        states = [torch.randn(N, 2)]
        for _ in range(T - 1):
            states.append(states[-1] @ transition.T + torch.randn(N, 2))
        y = torch.stack(states, 1) @ emission.T + 0.5 * torch.randn(N, T, 3)
        return torch.where((torch.arange(T) < lengths[:, None])[..., None], y, torch.zeros_like(y)), 2, lengths
