"""One law over all families: mixtures that write a family in every way and tie its arguments in every way.

`TIED` names them. Each has closed forms that are the maximum of `Q`, which torch finds too; where a location that
several components share meets several scales, the closed forms are swept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from oracles.m_steps import Model, View
from torch import Tensor, tensor
from torch.distributions import constraints

from programs import positive
from programs.ties import TIES, TOTALS, C, D, K, N, counted, draw, heads, matrix, mixture, pick, real, start

Law = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Tied:
    """A mixture with its data.

    Attributes:
        data: what the model is called with, made when it is asked for.
        swept: parameters that are found by sweeps over closed forms; empty if by one.
        views: by parameter that several values describe alike, what of it is compared.
    """

    model: Model
    data: Callable[[], tuple[Tensor, ...]]
    swept: tuple[str, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)


TIED: dict[str, Tied] = {}
"""Every mixture, by its name."""

# ---- counts and rates: one argument ----------------------------------------------------------------------------------


def unit(level: Tensor) -> Tensor:
    """One probability."""
    return 0.25 + 0.2 * level


def row(level: Tensor) -> Tensor:
    """One row of probabilities."""
    return torch.softmax((1 + level) * torch.arange(C) / C, -1)


def logits(level: Tensor) -> Tensor:
    """One row of logits, not normalised."""
    return (1 + level) * torch.arange(C) / C + 0.7


def rate(level: Tensor) -> Tensor:
    """One rate."""
    return 0.6 + 0.9 * level


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.3).double()


def kinds(*shape: int) -> Tensor:
    """Categories."""
    return (real(N, *shape).abs() * 2).long().clamp(max=C - 1)


def tables() -> Tensor:
    """Rows of counts."""
    return (real(N, C).abs() * 3).floor()


def onehot() -> Tensor:
    """Categories, as rows of zeros and a one."""
    return torch.nn.functional.one_hot(kinds(), C).double()


Level = Callable[[Tensor], Tensor]
OPEN, POSITIVE, REAL, ROW = constraints.unit_interval, constraints.positive, constraints.real, constraints.simplex
SOFTMAX: dict[str, View] = {"argument": lambda value: torch.softmax(value, -1)}  # logits count up to a constant

ONE: dict[str, tuple[Law, Level, Any, Callable[[], Tensor], Mapping[str, View]]] = {
    "Bernoulli probs": (lambda a: dist.Bernoulli(a), unit, OPEN, bits, {}),
    "Bernoulli logits": (lambda a: dist.Bernoulli(logits=a), lambda k: unit(k).logit(), REAL, bits, {}),
    "Binomial probs": (lambda a: dist.Binomial(TOTALS, a), unit, OPEN, heads, {}),
    "Binomial logits": (lambda a: dist.Binomial(TOTALS, logits=a), lambda k: unit(k).logit(), REAL, heads, {}),
    "Geometric probs": (lambda a: dist.Geometric(a), unit, OPEN, counted, {}),
    "Geometric logits": (lambda a: dist.Geometric(logits=a), lambda k: unit(k).logit(), REAL, counted, {}),
    "Categorical probs": (lambda a: dist.Categorical(a), row, ROW, kinds, {}),
    "Categorical logits": (lambda a: dist.Categorical(logits=a), logits, REAL, kinds, SOFTMAX),
    "OneHotCategorical probs": (lambda a: dist.OneHotCategorical(a), row, ROW, onehot, {}),
    "OneHotCategorical logits": (lambda a: dist.OneHotCategorical(logits=a), logits, REAL, onehot, SOFTMAX),
    "Multinomial probs": (lambda a: dist.Multinomial(probs=a), row, ROW, tables, {}),
    "Multinomial logits": (lambda a: dist.Multinomial(logits=a), logits, REAL, tables, SOFTMAX),
    "Poisson": (lambda a: dist.Poisson(a), rate, POSITIVE, counted, {}),
    "Exponential": (lambda a: dist.Exponential(a), rate, POSITIVE, lambda: real(N).exp(), {}),
    "DirichletMultinomial": (
        lambda a: dist.DirichletMultinomial(a, validate_args=False),
        lambda k: rate(k) + torch.arange(C) / C, POSITIVE, tables, {},
    ),
    "Bernoulli event": (
        lambda a: dist.Bernoulli(a).to_event(1),
        lambda k: unit(k) + 0.1 * torch.arange(C) / C, OPEN, lambda: (real(N, C) > 0.2).double(), {},
    ),
    "Categorical event": (
        lambda a: dist.Categorical(a).to_event(1),
        lambda k: row(k + torch.arange(2.0)[:, None]), ROW, lambda: kinds(2), {},
    ),
    "Poisson event of two dimensions": (
        lambda a: dist.Poisson(a).to_event(2),
        lambda k: rate(k) + torch.arange(6.0).reshape(3, 2) / 3, POSITIVE,
        lambda: (real(N, 3, 2).abs() * 3).floor(), {},
    ),
    "Multinomial event": (
        lambda a: dist.Multinomial(probs=a).to_event(1),
        lambda k: row(k + torch.arange(2.0)[:, None]), ROW, lambda: (real(N, 2, C).abs() * 3).floor(), {},
    ),
    "Exponential event": (
        lambda a: dist.Exponential(a).to_event(1),
        lambda k: rate(k) + torch.arange(C) / C, POSITIVE, lambda: real(N, C).exp(), {},
    ),
}  # fmt: skip
"""Distribution of one argument, its start by level, its constraint, the data, and what to compare."""


def _one(name: str, tie: str) -> Tied:
    law, level, constraint, data, views = ONE[name]
    model = mixture(lambda z: law(pick(pyro.param("argument", start(tie, level), constraint=constraint), tie, z)))
    return Tied(model, lambda: (data(),), views=views)


def _shared_by_an_event(z: Tensor) -> Any:
    """One probability for all items of a component: the counts of all items are pooled."""
    p = pyro.param("p", tensor([0.3, 0.5, 0.6]), constraint=OPEN)
    return dist.Bernoulli(p[z].unsqueeze(-1)).expand_by([]).expand((*z.shape[:-1], N, C)).to_event(1)


TIED |= {f"{name}, ties {tie}": _one(name, tie) for name, tie in product(ONE, TIES)}
TIED["Bernoulli event of one argument"] = Tied(mixture(_shared_by_an_event), lambda: ((real(N, C) > 0.2).double(),))

# ---- normal laws: a location and a scale, each tied in its own way ---------------------------------------------------


def _swept(locs: str, scales: str, *names: str) -> tuple[str, ...]:
    """Name what is swept: components that share a location differ in scale."""
    pairs = set(zip(TIES[locs], TIES[scales], strict=True))
    return names if len(pairs) > len(set(TIES[locs])) else ()


def _normal(family: Any, locs: str, scales: str) -> Tied:
    def law(z: Tensor) -> Any:
        loc = pyro.param("loc", start(locs, lambda k: 1.5 * k - 1))
        scale = pyro.param("scale", start(scales, lambda k: 0.7 + 0.4 * k), constraint=POSITIVE)
        return family(pick(loc, locs, z), pick(scale, scales, z))

    def data() -> tuple[Tensor]:
        x = real(N) * 2 + 0.5
        return (x.exp() if family is dist.LogNormal else x,)

    return Tied(mixture(law), data, _swept(locs, scales, "loc", "scale"))


def _normal_event(shape: tuple[int, ...]) -> Tied:
    def law(z: Tensor) -> Any:
        loc = pyro.param("loc", real(K, D, seed=2))
        scale = pyro.param("scale", 0.8 + 0.1 * torch.rand(shape, generator=draw()), constraint=POSITIVE)
        return dist.Normal(loc[z], scale[z] if len(shape) == 2 else scale).to_event(1)

    return Tied(mixture(law), lambda: (real(N, D) * 2,))


MATRICES = {
    "scale_tril": constraints.lower_cholesky,
    "covariance_matrix": constraints.positive_definite,
    "precision_matrix": constraints.positive_definite,
}
"""Three ways to write the covariance."""


def _multivariate(argument: str, locs: str, scales: str) -> Tied:
    def law(z: Tensor) -> Any:
        loc = pyro.param("loc", start(locs, lambda k: tensor([1.5, -0.5]) * k - 1))
        value = pyro.param(argument, start(scales, matrix(argument)), constraint=MATRICES[argument])
        return dist.MultivariateNormal(pick(loc, locs, z), **{argument: pick(value, scales, z)})

    def data() -> tuple[Tensor]:
        return (real(N, D) @ tensor([[1.0, 0.5], [0.0, 1.3]]),)

    return Tied(mixture(law), data, _swept(locs, scales, "loc", argument))


# Of the normal laws with a scale and with a triangle every two tyings meet; the others are these, written in another
# way, and have every tying of their locations and of their scales.
for (_i, _locs), (_j, _scales) in product(enumerate(TIES), enumerate(TIES)):
    _ties = f"locations tied {_locs}, scales {_scales}"
    _others = (_i + _j) % len(TIES) == 0
    TIED |= {f"{f.__name__}, {_ties}": _normal(f, _locs, _scales) for f in (dist.Normal, dist.LogNormal)[: 1 + _others]}
    TIED |= {f"{a}, {_ties}": _multivariate(a, _locs, _scales) for a in list(MATRICES)[: len(MATRICES) * _others or 1]}

for _of, _shape in {"each": (K, D), "a component": (K, 1), "a coordinate": (D,), "all": ()}.items():
    TIED[f"Normal event, a scale of {_of}"] = _normal_event(_shape)

# ---- positive, circular, heavy-tailed and overdispersed data, with every set of free arguments -----------------------


def _positive(family: str, free: tuple[str, ...]) -> Tied:
    return Tied(positive.mixture(family, free), lambda: (positive.FAMILIES[family][2]().sample((positive.N,)),))


TIED |= {f"{family} of free {' and '.join(free)}": _positive(family, free) for family, free in positive.FREE}

# ---- locations that are affine in parameters -------------------------------------------------------------------------


def _lines(t: Tensor, y: Tensor, location: Callable[[Tensor], Tensor], scale: Callable[[Tensor], Any]) -> None:
    with pyro.plate("row", len(t)):
        z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
        pyro.sample("y", dist.Normal(location(z), scale(z)), obs=y)


def _common_slope(t: Tensor, y: Tensor) -> None:
    """A slope that components with different scales share."""
    a, slope = pyro.param("a", tensor([1.0, -1.0])), pyro.param("slope", tensor(0.5))
    s = pyro.param("s", tensor([0.6, 1.7]), constraint=POSITIVE)
    _lines(t, y, lambda z: a[z] + slope * t, lambda z: s[z])


def _known_offset(t: Tensor, y: Tensor) -> None:
    """What is added and known stays known, and a location may be an average of parameters."""
    a, c = pyro.param("a", tensor([1.0, -1.0])), pyro.param("c", tensor(0.3))
    _lines(t, y, lambda z: (a[z] + c * t) / 2 + t**2, lambda z: 1.0)


def _points() -> tuple[Tensor, Tensor]:
    return real(30), 2 * real(30, seed=1)


TIED["lines with a common slope"] = Tied(_common_slope, _points, swept=("a", "slope", "s"))
TIED["lines with a known offset"] = Tied(_known_offset, _points)
