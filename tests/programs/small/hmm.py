"""Chains of more steps than are enumerated one by one: `dist.DiscreteHMM` in its forms, and loops run as one unit."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _three() -> Tensor:
    return tensor([[-0.7, 0.4, 2.6, 1.9, 0.3], [1.9, 2.2, 0.1, -1.0, -0.2], [0.6, -0.3, 2.4, 2.9, 3.3]])


def _ragged() -> tuple[Tensor, Tensor]:
    """Three sequences of five, three and one step."""
    return _three(), torch.arange(5) < tensor([5, 3, 1])[:, None]


def _initial() -> Tensor:
    return pyro.param("initial", tensor([0.35, 0.65]), constraint=constraints.simplex)


def _transition() -> Tensor:
    return pyro.param("transition", tensor([[0.8, 0.2], [0.4, 0.6]]), constraint=constraints.simplex)


def _several() -> Tensor:
    rows = tensor([[[0.8, 0.2], [0.4, 0.6]], [[0.55, 0.45], [0.1, 0.9]]])
    return pyro.param("transition", rows, constraint=constraints.simplex)


def _loc() -> Tensor:
    return pyro.param("loc", tensor([-0.4, 2.3]))


def _scale() -> Tensor:
    return pyro.param("scale", tensor([0.8, 1.3]), constraint=constraints.positive)


@program(_ragged, trace_enum=False)
def hmm_ragged(y: Tensor, seen: Tensor) -> None:
    """Mask what is past the end; one sequence has one step."""
    initial, transition, emission = _initial(), _transition(), dist.Normal(_loc(), _scale())
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(initial.log(), transition.log(), emission.mask(seen[..., None]), duration=5)
        pyro.sample("y", hmm, obs=y)


@program(_ragged, trace_enum=False)
def hmm_seasons(y: Tensor, seen: Tensor) -> None:
    """Select the transitions of every step from two matrices."""
    initial, transition, emission = _initial(), _several()[tensor([0, 1, 1, 0, 1])], dist.Normal(_loc(), _scale())
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(initial.log(), transition.log(), emission.mask(seen[..., None]))
        pyro.sample("y", hmm, obs=y)


@program(lambda: (_three(), tensor([1, 0, 1])), trace_enum=False)
def hmm_groups(y: Tensor, group: Tensor) -> None:
    """Give every sequence the transitions and the initial law of its group."""
    start = tensor([[0.35, 0.65], [0.8, 0.2]])
    initial = pyro.param("initial", start, constraint=constraints.simplex)[group]
    transition = _several()[group].unsqueeze(-3)
    emission = dist.Normal(_loc(), _scale())
    with pyro.plate("sequence", len(y)):
        pyro.sample("y", dist.DiscreteHMM(initial.log(), transition.log(), emission, duration=5), obs=y)


@program(lambda: (_three(), torch.linspace(-1, 1, 15).reshape(3, 5)), trace_enum=False)
def hmm_covariate(y: Tensor, x: Tensor) -> None:
    """Compute the transitions of every step and sequence from a covariate."""
    slope = pyro.param("slope", tensor([0.5, -0.3]))
    intercept = pyro.param("intercept", tensor([-1.0, 0.4]))
    logits = intercept + slope * x[..., None]
    logits = torch.stack([torch.zeros_like(logits), logits], -1)
    with pyro.plate("sequence", len(y)):
        pyro.sample("y", dist.DiscreteHMM(_initial().log(), logits, dist.Normal(_loc(), _scale())), obs=y)


@program(lambda: (_three(),), trace_enum=False)
def hmm_stationary(y: Tensor) -> None:
    """Start in the stationary law of two states, which is computed from the transitions."""
    transition = _transition()
    away = transition.flip(-1).diagonal()
    initial = away.flip(0) / away.sum()
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(initial.log(), transition.log(), dist.Normal(_loc(), 1.0), duration=5)
        pyro.sample("y", hmm, obs=y)


@program(lambda: (_three(),), trace_enum=False)
def hmm_mixture(y: Tensor) -> None:
    """Draw for every sequence one of two chains."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    transition, loc = _several(), pyro.param("loc", tensor([[-0.4, 2.3], [0.4, 3.0]]))
    with pyro.plate("sequence", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        emission = dist.Normal(loc[z].unsqueeze(-2), 1.0)
        hmm = dist.DiscreteHMM(_initial().log(), transition[z].unsqueeze(-3).log(), emission, duration=5)
        pyro.sample("y", hmm, obs=y)


@program(lambda: (_three(),), trace_enum=False)
def hmm_under_a_global_latent(y: Tensor) -> None:
    """Choose the emissions of all sequences at once."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.4, 2.3], [0.1, 2.9]]))
    z = pyro.sample("z", dist.Categorical(weights))
    with pyro.plate("sequence", len(y)):
        emission = dist.Normal(loc[z].unsqueeze(-2), 1.0)
        hmm = dist.DiscreteHMM(_initial().log(), _transition().log(), emission, duration=5)
        pyro.sample("y", hmm, obs=y)


@program(lambda: (_three(),), trace_enum=False)
def hmm_of_another_family(y: Tensor) -> None:
    """Emit from a family that is not registered."""
    emission = dist.Logistic(_loc(), _scale())
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(_initial().log(), _transition().log(), emission, duration=5)
        pyro.sample("y", hmm, obs=y)


@program(lambda: (_three(),), trace_enum=False)
def hmm_autoregressive(y: Tensor) -> None:
    """Pull every value towards the one before it, in each state by its own coefficient."""
    pull = pyro.param("pull", tensor([0.3, -0.2]))
    before = torch.nn.functional.pad(y[:, :-1], (1, 0))[..., None]
    emission = dist.Normal(_loc() + pull * before, _scale())
    with pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(_initial().log(), _transition().log(), emission, duration=5)
        pyro.sample("y", hmm, obs=y)


@program(
    lambda: (_three(), tensor([1.0, 3.0, 2.0])),
    repeated=lambda: (_three()[[0, 1, 1, 1, 2, 2]], torch.ones(6)),
    trace_enum=False,
)
def hmm_counts(y: Tensor, count: Tensor) -> None:
    """Weigh sequences by how often they occur."""
    emission = dist.Normal(_loc(), _scale())
    with poutine.scale(scale=count), pyro.plate("sequence", len(y)):
        hmm = dist.DiscreteHMM(_initial().log(), _transition().log(), emission, duration=5)
        pyro.sample("y", hmm, obs=y)


@program(lambda: (tensor([0, 3, 12, 7, 7, 1, 12, 4]), tensor([True] * 5 + [False] + [True] * 2)), trace_enum=False)
def hmm_of_many_symbols(y: Tensor, seen: Tensor) -> None:
    """Emit one of thirteen symbols, one of them missing; no plate."""
    start = (torch.arange(26.0).reshape(2, 13) * 0.37).sin().exp()
    probs = pyro.param("probs", start / start.sum(-1, keepdim=True), constraint=constraints.simplex)
    emission = dist.Categorical(probs).mask(seen[:, None])
    pyro.sample("y", dist.DiscreteHMM(_initial().log(), _transition().log(), emission, duration=8), obs=y)


def _eight() -> Tensor:
    return tensor([-0.7, 0.4, 2.6, 1.9, 0.3, 1.9, 2.2, -1.0])


@program(lambda: (_eight(),))
def loop_of_eight(y: Tensor) -> None:
    """Run eight steps: more than are summed out one by one."""
    initial, transition, loc = _initial(), _transition(), _loc()
    x = None
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(lambda: (_eight(), tensor([2, 5, 7])))
def loop_seen_at_times(y: Tensor, times: Tensor) -> None:
    """See two things at some steps, one at others and none at the last but one."""
    initial, transition, loc = _initial(), _transition(), _loc()
    probs = pyro.param("probs", tensor([0.3, 0.8]), constraint=constraints.unit_interval)
    x = None
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
        if t != 6:
            pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])
        if t in times:
            pyro.sample(f"w_{t}", dist.Bernoulli(probs[x]), obs=(y[t] > 1).to(y.dtype))


@program(lambda: (_eight()[None], torch.arange(8) < tensor([6])[:, None], tensor([2.0])), trace_enum=False)
def loop_ragged_and_weighted(y: Tensor, seen: Tensor, count: Tensor) -> None:
    """Mask what is past the end of a sequence that counts twice."""
    initial, transition, loc = _initial(), _transition(), _loc()
    with poutine.scale(scale=count), pyro.plate("sequence", len(y)):
        x = None
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=seen[:, t]):
                x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
                pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[:, t])


@program(lambda: (_eight(),))
def loop_backwards(y: Tensor) -> None:
    """Let each state depend on the one after it in the program's order of time."""
    initial, transition, loc = _initial(), _transition(), _loc()
    x = None
    for t in reversed(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(lambda: (_eight(),))
def loop_of_two_seasons(y: Tensor) -> None:
    """Select transitions by the season of a step."""
    initial, transition, loc = _initial(), _several(), _loc()
    x = None
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[t % 2][x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(lambda: (_eight() > 1,))
def loop_that_is_observed_twice(y: Tensor) -> None:
    """Run two loops over the same parameters, of which one is short and begins at a known state."""
    initial, transition = _initial(), _transition()
    probs = pyro.param("probs", tensor([0.3, 0.8]), constraint=constraints.unit_interval)
    known = torch.tensor(1)
    for name, steps, x in (("a", 8, None), ("b", 1, known)):
        for t in pyro.markov(range(steps)):
            x = pyro.sample(f"{name}_{t}", dist.Categorical(initial if x is None else transition[x]))
            pyro.sample(f"{name}_seen_{t}", dist.Bernoulli(probs[x]), obs=y[t].double())


@program(lambda: (tensor([[0, 3, 12, 7, 7, 1, 12, 4]]), tensor([6])), trace_enum=False)
def loop_of_many_symbols(y: Tensor, lengths: Tensor) -> None:
    """Emit one of thirteen symbols at each step of a sequence that ends early."""
    initial, transition = _initial(), _transition()
    start = (torch.arange(26.0).reshape(2, 13) * 0.37).sin().exp()
    probs = pyro.param("probs", start / start.sum(-1, keepdim=True), constraint=constraints.simplex)
    with pyro.plate("sequence", len(y)):
        x = None
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=lengths > t):
                x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
                pyro.sample(f"y_{t}", dist.Categorical(probs[x]), obs=y[:, t])
