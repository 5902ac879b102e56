r"""Two independent chains that are seen through their sum: a factorial hidden Markov model.

    a_0 ------> a_1 ------> a_2 ------> ...      initial_a (A), transition_a (A, A)
       \           \           \
       v           v           v
       y_0         y_1         y_2               level (A), shift (B - 1), scale ()
       ^           ^           ^
      /           /           /
    b_0 ------> b_1 ------> b_2 ------> ...      initial_b (B), transition_b (B, B)

    all of it in the plate "sequence": N

The mean of `y` is `level[a] + shift[b]`, with the shift of the first `b` zero: else a constant could move between the
two. Given the data the chains are dependent; the E-step is over pairs of states.

Closed form: `initial_*` and `transition_*` (Categorical probs); `level`, `shift` and `scale` (a mean affine in the
two, weighted least squares).

Data: simulated.

References:
    Ghahramani, Z. and Jordan, M. I. (1997). Factorial hidden Markov models. Machine Learning 29, 245-273.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .chains import sticky
from .seeded import seeded
from .start import real, spread, uniform, usable


def factorial(y: Tensor, A: int = 2, B: int = 2) -> None:
    """Add the levels of two chains.

    Params: `initial_a`, `transition_a`, `initial_b`, `transition_b`, `level` `(A,)`, `shift` `(B - 1,)`, `scale` `()`.
    Sites: `a_t`, `b_t` (latent), `y_t`.

    Args:
        y: shape `(N, T)`.
        A: number of states of the first chain.
        B: number of states of the second.
    """
    y = real(y)
    initial_a, transition_a = _chain("a", A, y)
    initial_b, transition_b = _chain("b", B, y)
    levels = spread(y, A)
    step = (levels[-1] - levels[0]) / (2 * A)
    level = pyro.param("level", levels)
    shift = pyro.param("shift", step * torch.arange(1, B, dtype=y.dtype, device=y.device))
    scale = pyro.param("scale", lambda: usable(y.std() / (A * B)), constraint=constraints.positive)
    shifts = torch.nn.functional.pad(shift, (1, 0))
    with pyro.plate("sequence", len(y)):
        a = b = torch.empty(0)
        for t in pyro.markov(range(y.shape[1])):
            a = pyro.sample(f"a_{t}", dist.Categorical(transition_a[a] if t else initial_a))
            b = pyro.sample(f"b_{t}", dist.Categorical(transition_b[b] if t else initial_b))
            pyro.sample(f"y_{t}", dist.Normal(level[a] + shifts[b], scale), obs=y[:, t])


def simulate(N: int = 4, T: int = 25, seed: int | torch.Generator = 0) -> Tensor:
    """Draw `N` sequences, shape `(N, T)`, of a slow chain at levels 0 and 4 and a fast one that adds 0 or 1.5."""
    with seeded(seed):
        slow = (torch.randint(2, (N, 1)) + (torch.rand(N, T) < 0.1).cumsum(-1)) % 2
        fast = (torch.randint(2, (N, 1)) + (torch.rand(N, T) < 0.4).cumsum(-1)) % 2
        return dist.Normal(4.0 * slow + 1.5 * fast, 0.3).sample()


def _chain(name: str, S: int, y: Tensor) -> tuple[Tensor, Tensor]:
    initial = pyro.param(f"initial_{name}", uniform(S, y), constraint=constraints.simplex)
    return initial, pyro.param(f"transition_{name}", sticky(S, y), constraint=constraints.simplex)
