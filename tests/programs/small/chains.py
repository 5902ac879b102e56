"""Chains: hidden Markov models in the forms that people write them."""

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _series() -> tuple[Tensor, ...]:
    return (tensor([-0.7, 0.4, 2.6, 1.9]),)


def _initial() -> Tensor:
    return pyro.param("initial", tensor([0.35, 0.65]), constraint=constraints.simplex)


def _transition() -> Tensor:
    return pyro.param("transition", tensor([[0.8, 0.2], [0.4, 0.6]]), constraint=constraints.simplex)


def _loc() -> Tensor:
    return pyro.param("loc", tensor([-0.4, 2.3]))


@program(_series)
def markov_chain(y: Tensor) -> None:
    """Run three states through `pyro.markov`."""
    initial = pyro.param("initial", tensor([0.2, 0.5, 0.3]), constraint=constraints.simplex)
    rows = tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.15, 0.25, 0.6]])
    transition = pyro.param("transition", rows, constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.9, 0.5, 2.3]))
    scale = pyro.param("scale", tensor([0.8, 1.1, 0.6]), constraint=constraints.positive)
    x = None
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], scale[x]), obs=y[t])


@program(_series)
def chain_by_loop(y: Tensor) -> None:
    """Write the chain as a plain loop, every state in a dimension of its own."""
    initial, transition, loc = _initial(), _transition(), _loc()
    x = None
    for t in range(len(y)):
        x = pyro.sample(f"x_{t}", dist.Categorical(initial if x is None else transition[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(_series)
def second_order_chain(y: Tensor) -> None:
    """Look two steps back: `history=2`."""
    initial, loc = _initial(), _loc()
    rows = tensor([[[0.8, 0.2], [0.4, 0.6]], [[0.55, 0.45], [0.1, 0.9]]])
    transition = pyro.param("transition", rows, constraint=constraints.simplex)
    before = last = torch.tensor(0)
    for t in pyro.markov(range(len(y)), history=2):
        probs = initial if t == 0 else Vindex(transition)[before, last]
        before, last = last, pyro.sample(f"x_{t}", dist.Categorical(probs))
        pyro.sample(f"y_{t}", dist.Normal(loc[last], 1.0), obs=y[t])


@program(lambda: (_series()[0][:3],))
def factorial_chain(y: Tensor) -> None:
    """Observe two chains through one table."""
    initial, transition = _initial(), _transition()
    other = pyro.param("other", tensor([[0.3, 0.7], [0.9, 0.1]]), constraint=constraints.simplex)
    table = pyro.param("table", tensor([[-1.0, 0.3], [0.8, 2.5]]))
    w = x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        w = pyro.sample(f"w_{t}", dist.Categorical(transition[w] if t else initial))
        x = pyro.sample(f"x_{t}", dist.Categorical(other[x] if t else initial))
        pyro.sample(f"y_{t}", dist.Normal(Vindex(table)[w, x], 1.0), obs=y[t])


@program(lambda: (tensor([[-0.7, 0.4, 2.6], [1.9, 2.2, 0.1]]),))
def batch_of_chains(y: Tensor) -> None:
    """Advance a plate of sequences together."""
    initial, transition, loc = _initial(), _transition(), _loc()
    x = torch.tensor(0)
    with pyro.plate("sequence", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            x = pyro.sample(f"x_{t}", dist.Categorical(transition[x] if t else initial))
            pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[:, t])


@program(lambda: (torch.tensor([2, 0, 1]), _series()[0][:3]))
def global_latent_above_chain(symbol: Tensor, y: Tensor) -> None:
    """Let one latent choose the transitions of the whole chain; observe a symbol and a number."""
    regime = pyro.param("regime", tensor([0.3, 0.7]), constraint=constraints.simplex)
    initial, loc = _initial(), _loc()
    rows = tensor([[[0.8, 0.2], [0.4, 0.6]], [[0.55, 0.45], [0.1, 0.9]]])
    transition = pyro.param("transition", rows, constraint=constraints.simplex)
    emission = pyro.param("emission", tensor([[0.5, 0.3, 0.2], [0.15, 0.25, 0.6]]), constraint=constraints.simplex)
    g = pyro.sample("g", dist.Categorical(regime))
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(transition)[g, x] if t else initial))
        pyro.sample(f"symbol_{t}", dist.Categorical(emission[x]), obs=symbol[t])
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(_series)
def left_to_right_chain(y: Tensor) -> None:
    """Forbid going back: logits of minus infinity below the diagonal, and a known first state."""
    free = pyro.param("free", tensor([[0.4, -0.3, -1.1], [0.0, 0.7, 0.1], [0.0, 0.0, 0.2]]))
    forbidden = torch.ones(3, 3).tril(-1).bool()
    logits = free.masked_fill(forbidden, -torch.inf)
    loc = pyro.param("loc", tensor([-0.9, 0.5, 2.3]))
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(logits=logits[x]))
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(_series)
def autoregressive_chain(y: Tensor) -> None:
    """Let each observation depend on the state and on the observation before it."""
    initial, transition, loc = _initial(), _transition(), _loc()
    slope = pyro.param("slope", tensor([0.6, -0.4]))
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(transition[x] if t else initial))
        mean = loc[x] + slope[x] * y[t - 1] if t else loc[x]
        pyro.sample(f"y_{t}", dist.Normal(mean, 1.0), obs=y[t])


@program(lambda: (tensor([[[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]]),))
def chain_of_chords(notes: Tensor) -> None:
    """Emit a plate of notes at each step of a plate of sequences, each note depending on its last value."""
    initial, transition = _initial(), _transition()
    table = tensor([[[0.8, 0.3], [0.6, 0.25], [0.35, 0.7]], [[0.2, 0.7], [0.4, 0.9], [0.55, 0.15]]])
    p = pyro.param("p", table, constraint=constraints.unit_interval)
    x = torch.tensor(0)
    last = torch.zeros(notes.shape[0], notes.shape[2], dtype=torch.long)
    with pyro.plate("sequence", notes.shape[0], dim=-2):
        note = pyro.plate("note", notes.shape[2], dim=-1)
        for t in pyro.markov(range(notes.shape[1])):
            x = pyro.sample(f"x_{t}", dist.Categorical(transition[x] if t else initial))
            with note as index:
                y = pyro.sample(f"y_{t}", dist.Bernoulli(Vindex(p)[x, index, last]), obs=notes[:, t])
            last = y.long()


@program(lambda: (tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]),))
def chain_of_steps_of_their_own(y: Tensor) -> None:
    """Give every step transitions and emissions of its own; one observation is missing."""
    t, count = torch.arange(len(y)), len(y)
    rows = torch.stack([0.9 - 0.05 * t, 0.1 + 0.05 * t, 0.3 + 0.04 * t, 0.7 - 0.04 * t], -1).reshape(count, 2, 2)
    moves = pyro.param("moves", rows, constraint=constraints.simplex)
    heads = pyro.param(
        "heads", torch.stack([0.2 + 0.03 * t, 0.85 - 0.02 * t], -1), constraint=constraints.unit_interval
    )
    x = torch.tensor(0)
    for k in pyro.markov(range(count)):
        x = pyro.sample(f"x_{k}", dist.Categorical(moves[k, x]))
        with pyro.poutine.mask(mask=torch.tensor(k != 4)):
            pyro.sample(f"y_{k}", dist.Bernoulli(heads[k, x]), obs=y[k])
