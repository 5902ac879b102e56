"""Chains of Gaussian latents: compiled or in torch, their law is that of a dense matrix, and fits are the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from test_chain import METHODS, needs_numba
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.forward_backward import compiled
from em_pyro.e_step.gaussian import layer
from em_pyro.e_step.gaussian.precision import places, sequential
from em_pyro.e_step.gaussian.precision.chain import Chain
from em_pyro.e_step.gaussian.precision.factored import factor
from em_pyro.e_step.gaussian.precision.places import Spots, put
from em_pyro.fit.problem import prepare

SHAPES = {"numbers": ((1, 1, 1), 9, 1), "vectors": ((1, 1, 1), 7, 3), "batches": ((2, 2, 3), 6, 2)}


def quietly(loop: Callable[..., None]) -> Callable[..., None]:
    """A loop as Python runs it."""
    return np.errstate(all="ignore")(loop)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How chains are factored; "interpreted" is the loops that numba compiles, as Python runs them."""
    if request.param == "interpreted":
        monkeypatch.setattr(sequential, "compiled", quietly)
    return "torch" if request.param == "torch" else "numba"


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(batch: tuple[int, ...], steps: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks on the diagonal and below it, and the matrices that they are."""
    root, size = normal(*batch, steps, width, width), steps * width
    diagonal = root @ root.mT + 4 * width * torch.eye(width, dtype=torch.float64)
    below, dense = normal(*batch, steps - 1, width, width, seed=1), torch.zeros((*batch, size, size)).double()
    for t in range(steps):
        here = slice(t * width, (t + 1) * width)
        dense[..., here, here] = diagonal[..., t, :, :]
        if t + 1 < steps:
            after = slice((t + 1) * width, (t + 2) * width)
            dense[..., after, here], dense[..., here, after] = below[..., t, :, :], below[..., t, :, :].mT
    return diagonal, below, dense


def flat(diagonal: Tensor, below: Tensor) -> Tensor:
    """Blocks side by side, as they are added up."""
    return torch.cat([diagonal.flatten(-3), below.flatten(-3)], -1)


def assert_same(found: Chain, dense: Tensor, of: Tensor) -> None:
    """Everything is that of a dense matrix."""
    k, width = found.k, found.width
    covariance = torch.linalg.inv(dense)
    same(found.log_det, 0.5 * torch.logdet(dense))
    pull = normal(*dense.shape[:2], len(of), k, seed=2)
    mine = covariance[:, :, of if dense.shape[2] > 1 else 0 * of]
    same(found.solve(pull, of), (mine @ pull.unsqueeze(-1)).squeeze(-1))
    at = torch.arange(k)
    near = (at[:, None] // width - at // width).abs() <= 1
    same(found.covariances(at[:, None], at), torch.where(near, covariance, 0.0))
    spots = Spots.of(at[:-1, None] + tensor([0, 1]), k, width)
    pairs = torch.stack([covariance[..., i : i + 2, i : i + 2] for i in range(k - 1)], 3)  # (s, z, p, c, 2, 2)
    for weights in (tensor([[2.0]]).double(), normal(2, k - 1, seed=3).abs()):
        every = weights.expand((*dense.shape[:3], *weights.shape))
        same(found.summed(spots, every), torch.einsum("wc,...cfg->...wfg", weights.expand((-1, k - 1)), pairs))
    roots = found.draw(torch.eye(k).double().unsqueeze(1), torch.zeros((k, 1)).long(), of[:1])[:, 0]  # (noise, k)
    same(roots.mT @ roots, covariance[0, 0, of[0] if dense.shape[2] > 1 else 0])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_chain_is_its_dense_matrix(method: str, shape: tuple[tuple[int, ...], int, int]) -> None:
    """Determinant, solutions, covariances, sums of them and draws; one number off by 1 % is seen."""
    batch, steps, width = shape
    diagonal, below, dense = chain(*shape)
    of = tensor([2, 0, 1, 2]) if batch[2] > 1 else torch.zeros(2).long()
    free = torch.ones((batch[2], steps * width), dtype=torch.bool)
    found = factor(flat(diagonal, below), free, steps * width, width, method)
    assert isinstance(found, Chain)
    assert_same(found, dense, of)
    for part in (diagonal, below):
        part[..., 0, 0, 0] *= 1.01
        wrong = factor(flat(diagonal, below), free, steps * width, width, method)
        part[..., 0, 0, 0] /= 1.01
        assert isinstance(wrong, Chain)
        with pytest.raises(AssertionError):
            assert_same(wrong, dense, of)


def test_latents_that_are_known_are_left_out(method: str) -> None:
    """Also where the last block has fewer latents than the others."""
    diagonal, below, dense = chain((1, 1, 2), 5, 2)
    k = 9
    free = torch.ones((2, k), dtype=torch.bool)
    free[0, 3] = free[1, 0] = free[1, 4] = False
    found = factor(flat(diagonal, below), free, k, 2, method)
    for p in range(2):
        some = free[p].nonzero()[:, 0]
        own = dense[0, 0, p][some[:, None], some]
        same(found.log_det[0, 0, p], 0.5 * torch.logdet(own))
        covariance = found.covariances(some[:, None], some)[0, 0, p]
        near = (some[:, None] // 2 - some // 2).abs() <= 1
        same(covariance, torch.where(near, torch.linalg.inv(own), 0.0))
        spots = Spots.of(torch.arange(k)[:, None], k, 2)
        weights = torch.ones((1, 1, 2, 1, 1)).double()
        same(found.summed(spots, weights)[0, 0, p].squeeze(), torch.linalg.inv(own).diagonal().sum())


def test_a_matrix_that_is_not_positive_definite(method: str) -> None:
    """Its determinant is not a number, also where a pivot is zero; the other has its covariances."""
    diagonal, below, dense = chain((1, 1, 2), 5, 2)
    diagonal[0, 0, 0, 3] = 0.0
    found = factor(flat(diagonal, below), torch.ones((2, 10), dtype=torch.bool), 10, 2, method)
    assert bool(found.log_det[0, 0, 0].isnan())
    same(found.variances[0, 0, 1], torch.linalg.inv(dense[0, 0, 1]).diagonal())


@pytest.mark.parametrize("size", [1e-170, 1e170])
def test_the_determinant_of_what_is_tiny_or_huge(method: str, size: float) -> None:
    """A product of pivots would have left the numbers; their logarithms add up."""
    diagonal, below, dense = chain((1, 1, 1), 5, 4)
    found = factor(size * flat(diagonal, below), torch.ones((1, 20), dtype=torch.bool), 20, 4, method)
    same(found.log_det, 0.5 * (torch.logdet(dense) + 20 * torch.tensor(size).double().log()))


def test_what_rows_have_is_added_up(method: str) -> None:
    """Rows with numbers of their own and rows that share them, some of them in the place behind all others."""
    where = (tensor([[0, 3], [3, 1], [4, 0]]), tensor([[2, 2]]))
    parts = (normal(2, 1, 1, 2), normal(1, 1, 1, 2, seed=1))
    each = parts[0].expand((2, 1, 3, 2))
    want = torch.zeros(2, 1, 4).double()
    for part, at in ((each, where[0]), (parts[1].expand((2, 1, 1, 2)), where[1])):
        for c in range(len(at)):
            for f in range(2):
                if at[c, f] < 4:
                    want[..., at[c, f]] += part[..., c, f]
    same(put(parts, where, 4, method), want)
    same(put((each.clone(), parts[1]), where, 4, method), want)


# ---- fits ------------------------------------------------------------------------------------------------------------

LENGTHS = tensor([9, 14, 14, 5])
START: dict[str, Tensor] = {
    "transition": tensor([[0.8, -0.3], [0.2, 0.6]]),
    "emission": tensor([[1.0, 0.2], [-0.5, 1.0], [0.3, 0.7]]),
    "noise": tensor([0.5, 0.8, 0.6]),
}


def params() -> tuple[Tensor, ...]:
    """Parameters of a linear dynamical system."""
    found = [pyro.param(name, value.double()) for name, value in list(START.items())[:2]]
    return (*found, pyro.param("noise", START["noise"].double(), constraint=constraints.positive))


def series(y: Tensor) -> None:
    """One series, some of whose steps were not seen."""
    transition, emission, noise = params()
    first = (torch.arange(len(y)) == 0).unsqueeze(-1)
    with pyro.plate("time", len(y)):
        state = pyro.sample("state", dist.Normal(y.new_zeros(2), 1.0).mask(first).to_event(1))
        law = dist.Normal(state @ emission.T, noise).mask((torch.arange(len(y)) % 5 != 2).unsqueeze(-1))
        pyro.sample("y", law.to_event(1), obs=y)
    with pyro.plate("moves", len(y) - 1):
        pyro.sample("moved", dist.Normal(state[:-1] @ transition.T, 1.0).to_event(1), obs=state[1:])


def sequences(y: Tensor) -> None:
    """Several sequences of unequal length, each of a kind that is not known."""
    transition, emission, noise = params()
    share = pyro.param("share", tensor([0.3, 0.7]).double(), constraint=constraints.simplex)
    steps = torch.arange(y.shape[1]) < LENGTHS.unsqueeze(-1)
    with pyro.plate("sequence", len(y)):
        kind = pyro.sample("kind", dist.Categorical(share))
        state = y.new_zeros(2)
        for t in pyro.markov(range(y.shape[1])):
            with pyro.poutine.mask(mask=steps[:, t]):
                state = pyro.sample(f"state_{t}", dist.Normal(state @ transition.T, 1.0).to_event(1))
                by = tensor([1.0, 3.0]).double()[kind].unsqueeze(-1)
                pyro.sample(f"y_{t}", dist.Normal(state @ emission.T, by * noise).to_event(1), obs=y[:, t])


MODELS: dict[str, tuple[Callable[..., Any], tuple[int, ...], str]] = {
    "series": (series, (14, 3), "state"),
    "sequences": (sequences, (4, 14, 3), "state_3"),
}


@needs_numba
@pytest.mark.parametrize("name", MODELS)
def test_compiled_fits_are_those_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps and the posterior; the plan says which it was."""
    monkeypatch.setattr(places, "SMALL", 4)
    model, shape, latent = MODELS[name]
    fits = []
    for how in ("torch", "numba"):
        pyro.clear_param_store()
        with compiled.recursion(how):
            fits.append(EM(model, max_steps=3, acceleration=None).fit(normal(*shape)))
        said = "compiled loops" if how == "numba" else "in torch"
        assert any(f"in a chain of blocks of 2 ({said}, because you asked for " in note for note in fits[-1].plan.notes)
    torchs, loops = fits
    same(tensor(loops.path), tensor(torchs.path))
    for key, value in torchs.params.items():
        same(loops.params[key], value)
    laws = [fit.posterior.marginal(latent) for fit in fits]
    same(laws[1].mean, laws[0].mean)
    same(laws[1].variance, laws[0].variance)


def density(y: Tensor, seen: Tensor, by: float = 1.0) -> Tensor:
    """Log-density of the steps of a series that were seen, with noise `by` times as large: of one normal vector."""
    transition, emission, noise = (value.double() for value in START.values())
    steps, spread = len(y), torch.eye(2).double()
    covariance = torch.zeros((steps, steps, 2, 2)).double()
    for t in range(steps):
        spread = spread if t == 0 else transition @ spread @ transition.T + torch.eye(2)
        for later in range(t, steps):
            covariance[later, t] = torch.linalg.matrix_power(transition, later - t) @ spread
            covariance[t, later] = covariance[later, t].T.clone()
    every = torch.einsum("ia,stab,jb->sitj", emission, covariance, emission)[seen][:, :, seen].flatten(2).flatten(0, 1)
    every = every + torch.diag((by * noise).square().repeat(int(seen.sum())))
    return dist.MultivariateNormal(torch.zeros(len(every)).double(), every).log_prob(y[seen].reshape(-1))


@pytest.mark.parametrize("how", ["torch", pytest.param("numba", marks=needs_numba)])
def test_evidence_is_that_of_a_dense_normal(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was seen of a series is one normal vector; of a sequence, in each kind."""
    monkeypatch.setattr(places, "SMALL", 4)
    y = normal(4, 14, 3, seed=5)
    with compiled.recursion(how):
        one = EM(series).posterior(y[0]).log_evidence
        pyro.clear_param_store()
        several = EM(sequences).posterior(y).log_evidence_by("sequence")
    same(tensor(one), density(y[0], torch.arange(14) % 5 != 2))
    share = tensor([0.3, 0.7]).double().log()
    for row, length, found in zip(y, LENGTHS, several, strict=True):
        kinds = torch.stack([density(row, torch.arange(14) < length, by) for by in (1.0, 3.0)])
        same(found, (share + kinds).logsumexp(0))


@pytest.mark.parametrize("how", ["torch", pytest.param("numba", marks=needs_numba)])
def test_a_series_that_is_there_twice(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its evidence counts twice, and steps are the same."""
    monkeypatch.setattr(places, "SMALL", 4)
    fits = []
    for model in (series, pyro.poutine.scale(series, scale=2.0)):
        pyro.clear_param_store()
        with compiled.recursion(how):
            fits.append(EM(model, max_steps=3, acceleration=None).fit(normal(14, 3)))
    once, twice = fits
    same(tensor(twice.path), 2 * tensor(once.path))
    for key, value in once.params.items():
        same(twice.params[key], value)


@needs_numba
def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long chains of narrow blocks are compiled, and the plan says what is not, and why."""
    monkeypatch.setattr(places, "SMALL", 4)

    def said() -> str:
        pyro.clear_param_store()
        return next(note for note in EM(series).plan(normal(14, 3)).notes if "chain of blocks" in note)

    assert said().endswith("in a chain of blocks of 2 (in torch, because the chain is short)")
    monkeypatch.setattr(compiled, "LARGE", 28 * 2)
    assert said().endswith("in a chain of blocks of 2 (compiled loops, because numba is installed)")
    monkeypatch.setattr(compiled, "LARGE", 28 * 2 + 1)
    assert said().endswith("(in torch, because the chain is short)")
    monkeypatch.setattr(compiled, "LARGE", 1)
    monkeypatch.setattr(layer, "WIDE", 1)
    assert said().endswith("(in torch, because its blocks are wide)")
    with compiled.recursion("numba"):
        assert said().endswith("(compiled loops, because you asked for them)")


def test_a_batch_of_points_holds_what_memory_allows() -> None:
    """What a unit says that it holds grows with the steps of a chain, not with their square."""
    held = []
    for steps in (100, 200):
        pyro.clear_param_store()
        held.append(prepare(series, (normal(steps, 3),), {}, {}, check=False).widest)
    assert held[0] >= 4 * 2 * 200 + 200 + 3 * 80 + 2 * 99  # blocks, latents, what was seen and moves
    assert 1.9 * held[0] < held[1] < 2.1 * held[0]
