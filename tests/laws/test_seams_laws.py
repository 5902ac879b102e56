"""Laws in place of points: variational Bayes is EM's own E-step at expected logarithms, for whoever binds them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, lay_out
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.e_step.engine import Engine
from em_pyro.e_step.make import engine_of
from em_pyro.program.named import Batch
from em_pyro.reading.bank import Segment
from em_pyro.reading.bound import Bound

FAR = 1e-3
"""What a planted fault must be off by, at least: seven digits above rounding."""

TOSSES = 10
HEADS = tensor([5.0, 9.0, 8.0, 4.0, 7.0, 9.0, 2.0, 3.0], dtype=torch.float64).repeat(9)
FEW = 6
"""Rows of which responsibilities are asked, one by one."""


def coins(heads: Tensor) -> None:
    """Two coins, one of which is tossed ten times in every row."""
    weights = pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    bias = pyro.param("bias", tensor([0.3, 0.7]), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(heads)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Binomial(TOSSES, bias[z]), obs=heads)


@dataclass(frozen=True)
class Law:
    """Shapes of a Beta for every entry, or of a Dirichlet over them: starts first.

    Attributes:
        ones: of the entry.
        rest: of what is left to one.
    """

    ones: Tensor
    rest: Tensor

    @property
    def mean(self) -> Tensor:
        """`E p`."""
        return self.ones / (self.ones + self.rest)

    def log(self, *, complement: bool = False) -> Tensor:
        """`E log p`, or `E log (1 - p)`."""
        return (self.rest if complement else self.ones).digamma() - (self.ones + self.rest).digamma()


def dirichlet(shapes: Tensor) -> Law:
    """The law of weights."""
    return Law(shapes, shapes.sum(-1, keepdim=True) - shapes)


@dataclass(eq=False)
class Laws(Bound):
    """Expected logarithms of the probabilities under laws, where `Bound` has logarithms of points."""

    laws: Mapping[str, Law] = field(default_factory=dict)

    @cached_property
    def logs(self) -> Tensor:
        """`E log p` of all."""
        return torch.cat([self._log(segment, complement=False) for segment in self.bank.probabilities], -1)

    @cached_property
    def log_complements(self) -> Tensor:
        """`E log (1 - p)` of all."""
        return torch.cat([self._log(segment, complement=True) for segment in self.bank.probabilities], -1)

    def _log(self, segment: Segment, *, complement: bool) -> Tensor:
        assert segment.chart.name == "itself"
        return self.laws[segment.parameter].log(complement=segment.complement != complement)


LAWS = {
    "weights": dirichlet(tensor([[1.3, 2.9], [4.0, 0.6]], dtype=torch.float64)),
    "bias": Law(
        tensor([[2.5, 7.0], [0.8, 3.0]], dtype=torch.float64), tensor([[3.5, 1.2], [0.4, 3.0]], dtype=torch.float64)
    ),
}
"""Of two starts, broad: a law is far from its mean."""


def points(laws: Mapping[str, Law]) -> Batch:
    """The means of laws, which is all that a point can know."""
    return {name: law.mean for name, law in laws.items()}


def by_hand(laws: Mapping[str, Law], rows: Tensor = HEADS) -> tuple[Tensor, Tensor, dict[str, list[Tensor]]]:
    """Log normaliser, shape (starts), responsibilities (starts, rows, coins), and the sums of both sites."""
    heads, tails = rows.unsqueeze(-1), TOSSES - rows.unsqueeze(-1)
    bias = laws["bias"]
    joint = laws["weights"].log().unsqueeze(1) + heads * bias.log().unsqueeze(1)
    joint = joint + tails * bias.log(complement=True).unsqueeze(1)
    shares = joint.softmax(-1)
    ways = math.lgamma(TOSSES + 1) - (rows + 1).lgamma() - (TOSSES - rows + 1).lgamma()
    sums = {"z": [shares.sum(1)], "x": [(shares * heads).sum(1), (shares * tails).sum(1)]}
    return (joint.logsumexp(-1) + ways).sum(-1), shares, sums


def coin_engine(*, merge: bool) -> Engine:
    """The engine of the coins, equal rows apart or as one with a weight."""
    built = lay_out(coins, (HEADS,))
    return engine_of(built.program, built.recognition, merge=merge)[0]


def off(engine: Engine, bound: Bound, laws: Mapping[str, Law]) -> tuple[float, float, float]:
    """How far evidence, sums and responsibilities are from those by hand."""
    evidence, shares, sums = by_hand(laws)
    found = engine.expect(bound)
    parts = [(got, want) for n, all_of in sums.items() for got, want in zip(found.sums[n].parts, all_of, strict=True)]
    alone = [engine.on((HEADS[k : k + 1],)).expect(bound).sums["z"].parts[0] for k in range(FEW)]
    return (
        distance(found.log_evidence, evidence),
        max(distance(got.reshape(want.shape), want) for got, want in parts),
        distance(torch.stack(alone, 1), shares[:, :FEW]),
    )


@pytest.mark.parametrize("merge", [False, True])
def test_an_e_step_under_laws_is_that_of_variational_bayes(merge: bool) -> None:  # noqa: FBT001
    """Normaliser, sums and responsibilities of two starts under Beta and Dirichlet laws are those by hand."""
    engine = coin_engine(merge=merge)
    assert (engine.unmerged is not None) == merge
    bound = Laws(points(LAWS), engine.recognition.bank, laws=LAWS)
    assert max(off(engine, bound, LAWS)) < IDENTITY


@pytest.mark.parametrize("merge", [False, True])
def test_points_are_not_laws(merge: bool) -> None:  # noqa: FBT001
    """The means of the laws, or the laws of one start for both, are far off in all three."""
    engine = coin_engine(merge=merge)
    assert min(off(engine, engine.bind(points(LAWS)), LAWS)) > FAR
    other = {name: Law(law.ones.flip(0), law.rest.flip(0)) for name, law in LAWS.items()}
    assert min(off(engine, Laws(points(LAWS), engine.recognition.bank, laws=other), LAWS)) > FAR


def bound_of(laws: Mapping[str, Law], prior: Mapping[str, Law], log_z: Tensor) -> Tensor:
    """The variational bound, shape (starts): the log normaliser less the divergence of the laws from their priors."""
    weights = torch.distributions.kl_divergence(dist.Dirichlet(laws["weights"].ones), _dirichlet(prior["weights"]))
    bias = torch.distributions.kl_divergence(
        dist.Beta(laws["bias"].ones, laws["bias"].rest), dist.Beta(prior["bias"].ones, prior["bias"].rest)
    )
    return log_z - weights - bias.sum(-1)


def _dirichlet(law: Law) -> dist.Dirichlet:
    return dist.Dirichlet(law.ones)


def ascent(*, laws: bool) -> list[Tensor]:
    """The bound after each of sixty rounds that add the sums to a prior, from E-steps under laws or at their means."""
    rows = HEADS[:8]
    engine = coin_engine(merge=False).on((rows,))
    one = torch.ones(2, 2, dtype=torch.float64)
    prior, now, path = {"weights": dirichlet(one), "bias": Law(one, one)}, dict(LAWS), []
    for _ in range(60):
        bound = Laws(points(now), engine.recognition.bank, laws=now) if laws else engine.bind(points(now))
        found = engine.expect(bound)
        path.append(bound_of(now, prior, by_hand(now, rows)[0]))
        heads, tails = found.sums["x"].parts
        now = {"weights": dirichlet(1 + found.sums["z"].parts[0]), "bias": Law(1 + heads, 1 + tails)}
    return path


def test_the_variational_bound_never_falls() -> None:
    """Sums of the engine added to a prior are a whole algorithm: its bound rises to an end; at means, it ends lower."""
    path = ascent(laws=True)
    assert all(bool((after >= before - IDENTITY).all()) for before, after in zip(path, path[1:], strict=False))
    assert distance(path[-1], path[-2]) < SOLVERS
    at_means = ascent(laws=False)
    assert bool((at_means[-1] < path[-1] - 100 * SOLVERS).all())
