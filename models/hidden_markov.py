"""Hidden Markov models as a loop, with emissions of several families and sequences of unequal length.

    initial (S)   transition (S, S)
       |               |
    +--|---------------|-------------------- sequence: N --+
    |  v               v                                   |
    | state_0 -----> state_1 -----> state_2 -----> ...     |
    |  |               |              |                    |
    |  v               v              v                    |
    |  y_0            y_1            y_2                   |
    +------------------------------------------------------+

The first observation's state has a distribution of its own, `initial`; the convention of Zucchini & MacDonald, hmmlearn
and depmixS4. After the end of a sequence everything is masked. A transition that starts at exactly zero stays there.

Closed form: `initial`, `transition` and every emission parameter: the Baum-Welch algorithm. With a stationary start
the transitions enter twice, through a linear solve: torch. With covariates they are a softmax regression: Newton.

Data: `load("earthquakes")`, 107 years of counts (Zucchini & MacDonald, table 1.1); speed, reaction times and accuracy
in three series (Visser & Speekenbrink).

References:
    Baum, L. E., Petrie, T., Soules, G. and Weiss, N. (1970). A maximization technique occurring in the statistical
    analysis of probabilistic functions of Markov chains. Annals of Mathematical Statistics 41, 164-171.
    Zucchini, W. and MacDonald, I. L. (2009). Hidden Markov Models for Time Series. Chapman & Hall.
    Visser, I. and Speekenbrink, M. (2010). depmixS4: an R package for hidden Markov models. JSS 36(7).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .chains import homogeneous, initial_law, inside, normal, stationary_law, sticky, transition_matrix, walk
from .seeded import seeded
from .start import categories_of, frequencies, real, spread, spread_rows, tilt, usable


def poisson(counts: Tensor, lengths: Tensor | None = None, S: int = 2, *, stationary: bool = False) -> None:
    """Emit Poisson counts.

    Params: `initial` `(S,)` unless stationary, `transition` `(S, S)`, `rate` `(S,)`. Sites: `state_t` (latent), `y_t`.

    Args:
        counts: shape `(N, T)`; anything valid after the end of a sequence.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        S: number of states.
        stationary: the first state has the stationary distribution of `transition`.
    """
    counts = real(counts)
    rate = pyro.param("rate", lambda: spread(counts[inside(counts, lengths)], S), constraint=constraints.positive)

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"y_{t}", dist.Poisson(rate[state]), obs=counts[:, t])

    transition = transition_matrix(S, counts)
    initial = stationary_law(transition) if stationary else initial_law(S, counts)
    walk(counts, lengths, initial, lambda t, state: dist.Categorical(transition[state]), emit)


def gaussian(y: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit normals, independent if there are several coordinates.

    Params: `initial`, `transition`, `loc` and `scale`, `(S,)` or `(S, D)`. Sites: `state_t` (latent), `y_t`.

    Args:
        y: shape `(N, T)` or `(N, T, D)`.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        S: number of states.
    """
    loc, scale = normal(y[inside(y, lengths)], S)

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"y_{t}", dist.Normal(loc[state], scale[state]).to_event(y.dim() - 2), obs=y[:, t])

    homogeneous(y, lengths, S, emit)


def multivariate(y: Tensor, lengths: Tensor | None = None, S: int = 2, *, tied: bool = False) -> None:
    """Emit correlated normals: `y` is `(N, T, D)`, `loc` `(S, D)`, `scale_tril` `(S, D, D)` or, tied, `(D, D)`."""
    y = real(y)
    seen = y[inside(y, lengths)]
    loc = pyro.param("loc", lambda: spread_rows(seen, S))
    start = torch.diag(usable(seen.std(0) / S))
    scale_tril = pyro.param(
        "scale_tril", start if tied else start.repeat(S, 1, 1), constraint=constraints.lower_cholesky
    )

    def emit(t: int, state: Tensor) -> None:
        root = scale_tril if tied else scale_tril[state]
        pyro.sample(f"y_{t}", dist.MultivariateNormal(loc[state], scale_tril=root), obs=y[:, t])

    homogeneous(y, lengths, S, emit)


def categorical(y: Tensor, lengths: Tensor | None = None, S: int = 2, C: int | None = None) -> None:
    """Emit one of `C` symbols: `y` is `(N, T)`, integers; `probs` is `(S, C)`; else as in `gaussian`."""
    C = categories_of(y) if C is None else C
    start = tilt(frequencies(y[inside(y, lengths)], C), S)
    probs = pyro.param("probs", start, constraint=constraints.simplex)

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"y_{t}", dist.Categorical(probs[state]), obs=y[:, t])

    homogeneous(y, lengths, S, emit)


def binomial(heads: Tensor, flips: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit heads of a known number of tosses: both are `(N, T)`; `probs` is `(S,)`; else as in `gaussian`."""
    heads, flips = real(heads), real(flips)
    seen = inside(heads, lengths)
    start = spread((heads[seen] + 1) / (flips[seen] + 2), S)
    probs = pyro.param("probs", start, constraint=constraints.unit_interval)

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"y_{t}", dist.Binomial(flips[:, t], probs[state]), obs=heads[:, t])

    homogeneous(heads, lengths, S, emit)


def time_and_accuracy(time: Tensor, correct: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit a log reaction time and a correct or incorrect answer at once, independent given the state.

    Params: `initial`, `transition`, `loc` `(S,)`, `scale` `(S,)`, `accuracy` `(S,)`. Sites: `state_t` (latent),
    `time_t`, `correct_t`.

    Args:
        time: shape `(N, T)`.
        correct: ones and zeros, shape `(N, T)`.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        S: number of states.
    """
    loc, scale = normal(time[inside(time, lengths)], S)
    start = torch.linspace(0.5, 0.9, S, dtype=time.dtype, device=time.device)
    accuracy = pyro.param("accuracy", start, constraint=constraints.unit_interval)

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"time_{t}", dist.Normal(loc[state], scale[state]), obs=time[:, t])
        pyro.sample(f"correct_{t}", dist.Bernoulli(accuracy[state]), obs=correct[:, t].to(time.dtype))

    homogeneous(time, lengths, S, emit)


def with_covariate(y: Tensor, covariate: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit normals from a chain whose transitions depend on a covariate, by softmax against the first state.

    Params: `initial` `(S,)`, `intercept` and `slope` `(S, S - 1)`, `loc` `(S,)`, `scale` `(S,)`.
    Sites: `state_t` (latent), `y_t`.

    Args:
        y: shape `(N, T)`.
        covariate: `covariate[:, t]` is for the step from `t` to `t + 1`, shape `(N, T)`.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        S: number of states.
    """
    loc, scale = normal(y[inside(y, lengths)], S)
    logits = sticky(S, y).log()
    intercept = pyro.param("intercept", logits[:, 1:] - logits[:, :1])
    slope = pyro.param("slope", torch.zeros_like(intercept))

    def step(t: int, state: Tensor) -> dist.Categorical:
        against_first = intercept[state] + slope[state] * covariate[:, t - 1, None]
        return dist.Categorical(logits=torch.nn.functional.pad(against_first, (1, 0)))

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"y_{t}", dist.Normal(loc[state], scale[state]), obs=y[:, t])

    walk(y, lengths, initial_law(S, y), step, emit)


def left_to_right(y: Tensor, lengths: Tensor | None = None, S: int = 2) -> None:
    """Emit normals from a chain that starts in the first state, and stays or moves on by one: all else is impossible.

    Params: `stay` `(S - 1,)`, `loc` `(S,)`, `scale` `(S,)`. Sites: `state_t` (latent), `y_t`. Structural zeros are
    written as logits of minus infinity, which are exact.

    Args:
        y: shape `(N, T)`.
        lengths: length of each sequence, shape `(N,)`; all `T` if not given.
        S: number of states.
    """
    loc, scale = normal(y[inside(y, lengths)], S)
    stay = pyro.param("stay", torch.full_like(loc[1:], 0.9), constraint=constraints.unit_interval)
    transition = torch.diag(torch.cat([stay, torch.ones_like(loc[:1])])) + torch.diag(1 - stay, 1)

    def emit(t: int, state: Tensor) -> None:
        pyro.sample(f"y_{t}", dist.Normal(loc[state], scale[state]), obs=y[:, t])

    first = torch.zeros_like(loc).index_fill(0, torch.tensor([0], device=loc.device), 1.0)
    walk(y, lengths, first, lambda t, state: dist.Categorical(logits=transition.log()[state]), emit)


def simulate_left_to_right(
    N: int = 5, T: int = 30, S: int = 2, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor, int]:
    """Draw `N` sequences of `T` steps that start in the first state and move on with probability `1.5 S / T`.

    Returns:
        `y` `(N, T)`, `lengths` `(N,)`, `S`: the arguments of `left_to_right`.
    """
    with seeded(seed):
        moves = torch.rand(N, T) < 1.5 * S / T
        state = (moves.cumsum(-1) - moves[:, :1].long()).clamp(max=S - 1)
        return dist.Normal(2 + 3.0 * state, 1.0).sample(), torch.full((N,), T), S


def simulate(
    N: int = 5, T: int = 30, S: int = 2, family: str = "gaussian", seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor]:
    """Draw `N` sequences of half `T` to `T` steps from a sticky chain whose states emit at levels 2, 5, 8, ...

    Args:
        N: number of sequences.
        T: length of the longest.
        S: number of states.
        family: "gaussian", "poisson" or "categorical" (six symbols).
        seed: a seed or a generator.

    Returns:
        Observations `(N, T)`, zero after the end, and `lengths` `(N,)`.
    """
    with seeded(seed):
        lengths = torch.randint((T + 1) // 2, T + 1, (N,))
        lengths[0] = T
        transition, state = sticky(S, torch.ones(1)), torch.randint(S, (N,))
        states = [state]
        for _ in range(T - 1):
            states.append(dist.Categorical(transition[states[-1]]).sample())
        level = 2 + 3.0 * torch.stack(states, -1)
        emissions = {
            "gaussian": dist.Normal(level, 1.0),
            "poisson": dist.Poisson(level),
            "categorical": dist.Categorical(logits=-((torch.arange(6) - level[..., None] + 2) ** 2)),
        }
        y = emissions[family].sample()
        return torch.where(torch.arange(T) < lengths[:, None], y, torch.zeros_like(y)), lengths
