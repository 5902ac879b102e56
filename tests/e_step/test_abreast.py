"""Steps of a chain whose arguments differ: one array of them gives what the steps give one by one."""

from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import Built, distance, laid_out
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.chains import find
from em_pyro.e_step.chains.chain import Chain
from em_pyro.e_step.chains.parts import Each
from em_pyro.e_step.several import abreast

PROGRAMS = ("chain_of_steps_of_their_own", "hmm-with-covariate")


def chains(built: Built) -> Iterator[Chain]:
    """The chains of an engine."""
    return (unit for part in built.compiled.parts for unit in part.units if type(unit) is Chain)


def arrays(built: Built) -> list[Each]:
    """The parts of its chains that are arrays of steps."""
    return [part for chain in chains(built) for part in chain.parts if type(part) is Each]


def gap(a: Any, b: Any) -> float:
    """How far the evidence and all sums of two E-steps are apart."""
    assert a.sums.keys() == b.sums.keys()
    pairs = [pair for name in a.sums for pair in zip(a.sums[name].parts, b.sums[name].parts, strict=True)]
    return max([distance(a.log_evidence, b.log_evidence), *(distance(x, y) for x, y in pairs)])


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_array_gives_what_its_steps_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence, and the statistics of every step under its own name."""
    together = laid_out(name)
    assert arrays(together)
    found = expect(together.compiled, together.here)
    with monkeypatch.context() as patch:
        patch.setattr(find, "kind_of", lambda factor, words: None)
        alone = laid_out.__wrapped__(name)
        assert not arrays(alone)
    assert gap(found, expect(alone.compiled, together.here)) < IDENTITY


def test_a_step_in_another_place_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: steps that stand in another order than their arguments."""
    name = PROGRAMS[0]
    right, beside = laid_out(name), abreast._beside
    with monkeypatch.context() as patch:
        patch.setattr(abreast, "_beside", lambda roles, names: beside(roles[::-1], names))
        wrong = laid_out.__wrapped__(name).compiled
    assert gap(expect(right.compiled, right.here), expect(wrong, right.here)) > 1e-3


U, COUNTS = tensor([-0.4, 1.3, 0.2, -1.1, 0.7, 2.0, -0.3, 0.9]), tensor([2.0, 0.0, 5.0, 1.0, 3.0, 0.0, 7.0, 2.0])


def counted(u: Tensor, y: Tensor) -> None:
    """Counts whose exposures and transitions differ by step, in two states."""
    a = pyro.param("a", tensor([[0.5, -0.5], [-0.2, 0.9]]))
    b = pyro.param("b", tensor([[0.0, 0.3], [0.0, -0.4]]))
    rate = pyro.param("rate", tensor([1.0, 3.0]), constraint=constraints.positive)
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Categorical(logits=a[x] + b[x] * u[t]))
        pyro.sample(f"y_{t}", dist.Poisson(rate[x] * (1.0 + t)), obs=y[t])


def test_starts_are_an_array_too() -> None:
    """Each of several starts takes the steps that it takes alone."""
    starts = [{"b": tensor([[0.0, 0.1 * k], [0.0, -0.2 * k]])} for k in range(3)]
    alone = []
    for start in starts:
        pyro.clear_param_store()
        alone.append(EM(counted, starts=start, tol=0, max_steps=3, acceleration=None).fit(U, COUNTS))
    pyro.clear_param_store()
    em = EM(counted, starts=starts, tol=0, max_steps=3, acceleration=None)
    several = em.fit(U, COUNTS)
    best = max(alone, key=lambda fit: fit.objective)
    assert distance(several.objective, best.objective) < IDENTITY
    kinds = {len(part.steps) for chain in _chains_of(em) for part in chain.parts if type(part) is Each}
    assert kinds == {7}  # exposures are known: emissions are one function


def _chains_of(em: EM) -> list[Chain]:
    engine = em._prepare((U, COUNTS), {}).engine
    return [unit for part in engine.parts for unit in part.units if type(unit) is Chain]
