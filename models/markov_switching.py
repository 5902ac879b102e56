r"""A Markov-switching autoregression: each value depends on the one before it, in a way that a hidden state chooses.

    initial (S)   transition (S, S)
       |               |
       v               v
    state_1 -----> state_2 -----> state_3 -----> ...
       |               |              |
       v               v              v
    y_1 ---------> y_2 ---------> y_3 ---------> ...      intercept, slope, scale (S)
     ^
     y_0 (given)                                          all of it in the plate "sequence": N

`y_t` is normal around `intercept[state] + slope[state] * y_{t-1}`. The first value of a sequence is given: it has no
state and no density of its own.

Closed form: `initial` and `transition` (Categorical probs); `intercept`, `slope` and `scale` (a mean affine in the
two, weighted least squares).

Data: simulated.

References:
    Hamilton, J. D. (1989). A new approach to the economic analysis of nonstationary time series and the business
    cycle. Econometrica 57, 357-384.
    Hamilton, J. D. (1990). Analysis of time series subject to changes in regime. Journal of Econometrics 45, 39-70.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .chains import initial_law, transition_matrix
from .seeded import seeded
from .start import real, spread, usable


def switching(y: Tensor, S: int = 2) -> None:
    """Let a hidden state choose intercept, slope and scale.

    Params: `initial` `(S,)`, `transition` `(S, S)`, `intercept`, `slope` and `scale` `(S,)`. Sites: `state_t` (latent)
    and `y_t`, for `t` from 1.

    Args:
        y: shape `(N, T)`.
        S: number of states.
    """
    y = real(y)
    initial, transition = initial_law(S, y), transition_matrix(S, y)
    slope = pyro.param("slope", torch.linspace(0.0, 0.5, S, dtype=y.dtype, device=y.device))
    intercept = pyro.param("intercept", lambda: spread(y.flatten(), S))
    scale = pyro.param("scale", lambda: usable(y.std() / S).expand(S).clone(), constraint=constraints.positive)
    with pyro.plate("sequence", len(y)):
        state = torch.empty(0)
        for t in pyro.markov(range(1, y.shape[1])):
            state = pyro.sample(f"state_{t}", dist.Categorical(transition[state] if t > 1 else initial))
            mean = intercept[state] + slope[state] * y[:, t - 1]
            pyro.sample(f"y_{t}", dist.Normal(mean, scale[state]), obs=y[:, t])


def simulate(N: int = 3, T: int = 40, seed: int | torch.Generator = 0) -> Tensor:
    """Draw `N` series, shape `(N, T)`: a calm state that forgets quickly, and a wild one that carries on."""
    with seeded(seed):
        state = (torch.randint(2, (N, 1)) + (torch.rand(N, T) < 0.1).cumsum(-1)) % 2
        values = [2.0 + torch.randn(N)]
        for t in range(1, T):
            wild = state[:, t]
            mean = 2.0 * (1 - wild) + (0.2 + 0.7 * wild) * values[-1]
            values.append(dist.Normal(mean, 0.4 + 0.6 * wild).sample())
        return torch.stack(values, -1)
