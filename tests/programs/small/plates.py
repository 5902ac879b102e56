"""Plates: nested, siblings, sequential, re-entered, in far dimensions, with latents above and inside them."""

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


@program(lambda: (tensor([-1.3, 0.2, 2.9, 0.8]),))
def global_latent(x: Tensor) -> None:
    """Put a latent above the plate: it chooses the weights of the rows' latents."""
    regime = pyro.param("regime", tensor([0.3, 0.7]), constraint=constraints.simplex)
    weights = pyro.param("weights", tensor([[0.2, 0.8], [0.6, 0.4]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    g = pyro.sample("g", dist.Categorical(regime))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights[g]))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(lambda: (tensor([[[0.3, -0.2], [1.9, 2.4]], [[0.7, 1.1], [2.2, -0.6]]]),))
def three_nested_plates(x: Tensor) -> None:
    """Nest three plates with a latent at the root, in the outer and in the middle one."""
    top = pyro.param("top", tensor([0.45, 0.55]), constraint=constraints.simplex)
    outer = pyro.param("outer", tensor([[0.3, 0.7], [0.8, 0.2]]), constraint=constraints.simplex)
    middle = pyro.param("middle", tensor([[0.25, 0.75], [0.6, 0.4]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.4, 0.7], [1.2, 2.5]]))
    g = pyro.sample("g", dist.Categorical(top))
    with pyro.plate("school", 2, dim=-3):
        a = pyro.sample("a", dist.Categorical(outer[g]))
        with pyro.plate("class", 2, dim=-2):
            b = pyro.sample("b", dist.Categorical(middle[a]))
            with pyro.plate("pupil", 2, dim=-1):
                pyro.sample("x", dist.Normal(Vindex(loc)[a, b], 1.0), obs=x)


@program(lambda: (tensor([[0.3, -0.2, 1.4], [1.9, 2.4, 0.1]]), tensor([1.0, 0.0])))
def latents_at_every_level(x: Tensor, y: Tensor) -> None:
    """Nest two plates with latents in both and data in both."""
    outer = pyro.param("outer", tensor([0.3, 0.7]), constraint=constraints.simplex)
    inner = pyro.param("inner", tensor([[0.25, 0.75], [0.6, 0.4]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.4, 0.7], [1.2, 2.5]]))
    p = pyro.param("p", tensor([0.2, 0.7]), constraint=constraints.unit_interval)
    with pyro.plate("group", 2, dim=-2):
        a = pyro.sample("a", dist.Categorical(outer))
        pyro.sample("y", dist.Bernoulli(p[a]), obs=y.unsqueeze(-1))
        with pyro.plate("member", 3, dim=-1):
            b = pyro.sample("b", dist.Categorical(inner[a]))
            pyro.sample("x", dist.Normal(Vindex(loc)[a, b], 1.0), obs=x)


@program(lambda: (tensor([-1.3, 0.2, 2.9]), tensor([1.0, 4.0])))
def sibling_plates(x: Tensor, y: Tensor) -> None:
    """Hang two plates on one latent, in the same dimension and with unequal sizes."""
    regime = pyro.param("regime", tensor([0.3, 0.7]), constraint=constraints.simplex)
    left = pyro.param("left", tensor([[0.2, 0.8], [0.6, 0.4]]), constraint=constraints.simplex)
    right = pyro.param("right", tensor([[0.7, 0.3], [0.1, 0.9]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    rate = pyro.param("rate", tensor([0.9, 3.2]), constraint=constraints.positive)
    g = pyro.sample("g", dist.Categorical(regime))
    with pyro.plate("left_row", len(x)):
        a = pyro.sample("a", dist.Categorical(left[g]))
        pyro.sample("x", dist.Normal(loc[a], 1.0), obs=x)
    with pyro.plate("right_row", len(y)):
        b = pyro.sample("b", dist.Categorical(right[g]))
        pyro.sample("y", dist.Poisson(rate[b]), obs=y)


@program(lambda: (tensor([-1.3, 0.2, 2.9]),))
def sequential_plate(x: Tensor) -> None:
    """Iterate over the plate instead of entering it."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    for i in pyro.plate("row", len(x)):
        z = pyro.sample(f"z_{i}", dist.Categorical(weights))
        pyro.sample(f"x_{i}", dist.Normal(loc[z], 1.0), obs=x[i])


@program(lambda: (tensor([-1.3, 0.2, 2.9]),))
def python_loop(x: Tensor) -> None:
    """Loop over independent rows without telling Pyro that they are."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    for i in range(len(x)):
        z = pyro.sample(f"z_{i}", dist.Categorical(weights))
        pyro.sample(f"x_{i}", dist.Normal(loc[z], 1.0), obs=x[i])


@program(lambda: (tensor([[-1.3, 0.2], [2.9, 0.8]]),))
def sequential_outside_vectorised(x: Tensor) -> None:
    """Enter a vectorised plate inside each pass of a sequential one."""
    outer = pyro.param("outer", tensor([0.3, 0.7]), constraint=constraints.simplex)
    inner = pyro.param("inner", tensor([[0.2, 0.8], [0.6, 0.4]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    for i in pyro.plate("group", len(x)):
        a = pyro.sample(f"a_{i}", dist.Categorical(outer))
        with pyro.plate(f"member_{i}", x.shape[1]):
            b = pyro.sample(f"b_{i}", dist.Categorical(inner[a]))
            pyro.sample(f"x_{i}", dist.Normal(loc[b], 1.0), obs=x[i])


@program(lambda: (tensor([-1.3, 0.2, 2.9]), tensor([0.4, 1.7, -0.6])))
def plate_entered_twice(x: Tensor, y: Tensor) -> None:
    """Enter one plate object a second time and read there what was sampled the first time."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    slope = pyro.param("slope", tensor([0.4, -0.9]))
    row = pyro.plate("row", len(x))
    with row:
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
    with row:
        pyro.sample("y", dist.Normal(slope[z] * x, 1.2), obs=y)


@program(lambda: (tensor([[-1.3], [0.2], [2.9]]),))
def far_dimension(x: Tensor) -> None:
    """Leave a hole: plates in dimensions -1 and -3, nothing in -2."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([[-0.4, 2.3], [0.9, -1.6]]))
    with pyro.plate("row", len(x), dim=-3):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("column", 2, dim=-1) as column:
            pyro.sample("x", dist.Normal(Vindex(loc)[column, z], 1.0), obs=x.unsqueeze(-1).expand(-1, -1, 2))


@program(lambda: (tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),))
def latent_class(answers: Tensor) -> None:
    """Answer items, an inner plate, by a table read at person class and item."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    p = pyro.param("p", tensor([[0.8, 0.3, 0.6], [0.2, 0.7, 0.4]]), constraint=constraints.unit_interval)
    with pyro.plate("person", answers.shape[0], dim=-2):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("item", answers.shape[1], dim=-1) as item:
            pyro.sample("answer", dist.Bernoulli(Vindex(p)[z, item]), obs=answers)


@program(lambda: (torch.tensor([[0, 2, 1], [1, 1, 2]]),))
def topics(words: Tensor) -> None:
    """Give each document its own topic weights: parameters that live in a plate."""
    theta = pyro.param("theta", tensor([[0.3, 0.7], [0.6, 0.4]]), constraint=constraints.simplex)
    phi = pyro.param("phi", tensor([[0.5, 0.3, 0.2], [0.15, 0.25, 0.6]]), constraint=constraints.simplex)
    with pyro.plate("document", words.shape[0], dim=-2):
        with pyro.plate("word_position", words.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(theta.unsqueeze(-2)))
            pyro.sample("word", dist.Categorical(phi[z]), obs=words)
