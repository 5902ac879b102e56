"""Hidden Markov models as one site, `dist.DiscreteHMM`: the form for long chains.

    initial (S)   transition (S, S)   emission parameters (S, ...)
          |            |                  |
    +-----|------------|------------------|---- sequence: N --+
    |     +----------> y, shape (T, ...) <+                   |
    +---------------------------------------------------------+

The states are summed out inside the distribution, by a parallel scan; nothing is enumerated. Mind the convention: a
transition comes *before* the first observation here, so that `initial` is the law of an unobserved state before it.
After the end of a sequence the observations are masked.

Closed form: `initial`, `transition` (Categorical rows) and the emission parameters: Baum-Welch.

Data: simulated, as in `hidden_markov`.

References:
    Rabiner, L. R. (1989). A tutorial on hidden Markov models and selected applications in speech recognition.
    Proceedings of the IEEE 77, 257-286.
    Särkkä, S. and García-Fernández, Á. F. (2021). Temporal parallelization of Bayesian smoothers. IEEE Transactions on
    Automatic Control 66, 299-306.
"""

import pyro
import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from .chains import initial_law, inside, normal, transition_matrix
from .hidden_markov import simulate
from .start import categories_of, frequencies, real, spread, tilt

__all__ = ["categorical", "gaussian", "poisson", "simulate"]


def gaussian(y: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit normals, independent if there are several coordinates.

    Params: `initial` `(S,)`, `transition` `(S, S)`, `loc` and `scale`, `(S,)` or `(S, D)`. Sites: `y`.

    Args:
        y: shape `(N, T)` or `(N, T, D)`.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        S: number of states.
    """
    loc, scale = normal(y[inside(y, lengths)], S)
    _sequences(y, lengths, S, dist.Normal(loc, scale).to_event(y.dim() - 2))


def poisson(counts: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit Poisson counts: `counts` is `(N, T)`, `rate` is `(S,)`; else as in `gaussian`."""
    counts = real(counts)
    rate = pyro.param("rate", lambda: spread(counts[inside(counts, lengths)], S), constraint=constraints.positive)
    _sequences(counts, lengths, S, dist.Poisson(rate))


def categorical(y: Tensor, lengths: Tensor | None = None, S: int = 2, C: int | None = None) -> None:
    """Emit one of `C` symbols: `y` is `(N, T)`, integers; `probs` is `(S, C)`; else as in `gaussian`."""
    C = categories_of(y) if C is None else C
    start = tilt(frequencies(y[inside(y, lengths)], C), S)
    _sequences(y, lengths, S, dist.Categorical(pyro.param("probs", start, constraint=constraints.simplex)))


def _sequences(y: Tensor, lengths: Tensor | None, S: int, emission: TorchDistributionMixin) -> None:
    initial, transition = initial_law(S, y), transition_matrix(S, y)
    if lengths is not None:
        emission = emission.mask(inside(y, lengths)[..., None])
    with pyro.plate("sequence", len(y)):
        chain = dist.DiscreteHMM(initial.log(), transition.log(), emission, duration=y.shape[1])
        pyro.sample("y", chain, obs=y)
