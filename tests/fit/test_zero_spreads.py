"""Scales of zero where normal latents are integrated: a boundary is named, a collapse is told from it."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.gaussian.unit import Gaussian
from em_pyro.fit import certificate, endings, loop
from em_pyro.fit.scales import Scales

G, PER = 10, 6
OF = torch.arange(G).repeat_interleave(PER)


def drawn(seed: int, *shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(name: str, value: Tensor) -> Tensor:
    """Declare scales."""
    return pyro.param(name, value.double(), constraint=constraints.positive)


def alike() -> Tensor:
    """Groups whose means differ by less than their rows would let them."""
    e = drawn(0, G, PER)
    return 2 + (e - e.mean(1, keepdim=True) + 0.05 * drawn(1, G, 1)).reshape(-1)


TIME = drawn(2, G * PER)
SLOPED = alike() + drawn(3, G)[OF] * TIME
SAME = alike() + 1.3 * drawn(3, G)[OF] * (1 + 0.5 * TIME)


def intercepts(y: Tensor) -> None:
    """Random intercepts."""
    mean, between = pyro.param("mean", torch.tensor(0.5).double()), positive("sigma_b", torch.tensor(1.0))
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.Normal(0.0, between))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + b[OF], positive("sigma", torch.tensor(1.0))), obs=y)


def logarithmic(y: Tensor) -> None:
    """The same by the logarithm of a scale."""
    mean, between = pyro.param("mean", torch.tensor(0.5).double()), pyro.param("log_b", torch.tensor(0.0).double())
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.Normal(0.0, between.exp()))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + b[OF], positive("sigma", torch.tensor(1.0))), obs=y)


def slopes(y: Tensor, whole: str) -> None:
    """Intercepts and slopes with a covariance."""
    mean = pyro.param("mean", torch.tensor([0.5, 0.1]).double())
    constraint = constraints.lower_cholesky if whole == "scale_tril" else constraints.positive_definite
    root = pyro.param("root", torch.eye(2).double(), constraint=constraint)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2).double(), **{whole: root}))
    with pyro.plate("rows", len(y)):
        line = mean[0] + b[OF, 0] + (mean[1] + b[OF, 1]) * TIME
        pyro.sample("y", dist.Normal(line, positive("sigma", torch.tensor(1.0))), obs=y)


def level(y: Tensor) -> None:
    """A local level."""
    step, noise = positive("step", torch.tensor(1.0)), positive("noise", torch.tensor(1.0))
    z = torch.tensor(0.0).double()
    for t in range(len(y)):
        z = pyro.sample(f"z_{t}", dist.Normal(z, step if t else 30.0))
        pyro.sample(f"y_{t}", dist.Normal(z, noise), obs=y[t])


def factor(x: Tensor) -> None:
    """One factor of three columns."""
    loadings, loc = pyro.param("loadings", torch.full((3,), 0.5).double()), pyro.param("loc", torch.zeros(3).double())
    scale = positive("scale", torch.ones(3))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * loadings + loc, scale).to_event(1), obs=x)


HEYWOOD = torch.linalg.qr(drawn(9, 60, 3)).Q * 60**0.5
HEYWOOD = HEYWOOD @ torch.linalg.cholesky(torch.tensor([[1.0, 0.8, 0.8], [0.8, 1.0, 0.5], [0.8, 0.5, 1.0]]).double()).T
STILL = (-1.0) ** torch.arange(24) + 0.1 * drawn(6, 24)

BOUNDARIES: dict[str, tuple[Callable[..., None], tuple[Any, ...], list[str]]] = {
    "intercepts": (intercepts, (alike(),), ['"sigma_b"']),
    "logarithmic": (logarithmic, (alike(),), ['"log_b"']),
    "next to no intercepts": (slopes, (SLOPED, "scale_tril"), ['"root"[1, 1]']),
    "nothing": (slopes, (alike(), "scale_tril"), ['"root"[0, 0]', '"root"[1, 1]']),
    "correlation of one": (slopes, (SAME, "covariance_matrix"), ['"root"[1, 1]']),
    "level": (level, (STILL,), ['"step"']),
    "column of a factor": (factor, (HEYWOOD,), ['"scale"[0]']),
}
INSIDE: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "intercepts": (intercepts, (alike() + drawn(3, G)[OF],)),
    "slopes": (slopes, (SLOPED + drawn(7, G)[OF], "scale_tril")),
    "level": (level, (drawn(8, 24).cumsum(0),)),
}


def at_boundary(notes: tuple[str, ...]) -> list[str]:
    """Return the entries that are named."""
    found = [note.removeprefix("at the boundary: ") for note in notes if note.startswith("at the boundary: ")]
    return [part for note in found for part in note.replace("], ", "]; ").replace('", ', '"; ').split("; ")]


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_scale_that_is_zero_at_the_maximum_is_named(name: str) -> None:
    """It is reached, and neither crawled towards nor called degenerate; and it is not what else is not identified."""
    model, args, expected = BOUNDARIES[name]
    fit = EM(model).fit(*args)
    assert fit.outcome == "converged"
    assert at_boundary(fit.notes) == expected
    assert not [note for note in fit.notes if "not identified" in note or "runs to" in note]


@pytest.mark.parametrize("error", [1.0, 10.0])
@pytest.mark.parametrize("name", ["intercepts", "logarithmic"])
def test_what_is_left_before_zero_is_gained(name: str, error: float) -> None:
    """Without a random effect rows are one sample: its likelihood is reached to the tolerance, past no saddle."""
    y = error * alike()
    truth = float(dist.Normal(y.mean(), y.std(correction=0)).log_prob(y).sum())
    fit = EM(BOUNDARIES[name][0]).fit(y)
    assert 0 <= truth - fit.log_likelihood < 1e-9 * (1 + abs(truth))
    assert at_boundary(fit.notes)
    assert not [note for note in fit.notes if "saddle" in note]


def test_without_the_last_way_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """EM comes nearer to zero by ever less."""
    monkeypatch.setattr(loop, "gone_to_zero", lambda *_: None)
    with pytest.raises(AssertionError):
        test_what_is_left_before_zero_is_gained("intercepts", 1.0)


@pytest.mark.parametrize("name", INSIDE)
def test_a_scale_inside_is_not(name: str) -> None:
    """Where the data show it."""
    model, args = INSIDE[name]
    fit = EM(model).fit(*args)
    assert fit.outcome == "converged"
    assert not fit.notes


def test_a_scale_that_nothing_depends_on_is_not_identified() -> None:
    """It is flat above as it is below."""

    def model(y: Tensor) -> None:
        intercepts(y)
        with pyro.plate("others", 3):
            pyro.sample("idle", dist.Normal(0.0, positive("free", torch.tensor(1.0))))

    fit = EM(model).fit(alike() + drawn(3, G)[OF])
    assert not at_boundary(fit.notes)
    assert any("not identified" in note and '"free"' in note for note in fit.notes)


# ---- collapse --------------------------------------------------------------------------------------------------------

TWICE = torch.cat([drawn(11, 1, 4).expand(2, 4), drawn(12, 28, 4)])


def analysers(x: Tensor) -> None:
    """A mixture of factor analysers, one of which has begun at two equal rows."""
    weights = pyro.param("weights", torch.tensor([0.1, 0.9]).double(), constraint=constraints.simplex)
    loadings = pyro.param("loadings", torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.6, 0.5, 0.8, 0.3]]).double())
    loc = pyro.param("loc", torch.stack([x[0], x.mean(0)]))
    scale = positive("scale", torch.tensor([[0.05] * 4, [1.0] * 4]))
    with pyro.plate("rows", len(x)):
        c = pyro.sample("c", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * loadings[c] + loc[c], scale[c]).to_event(1), obs=x)


def with_holes(x: Tensor) -> None:
    """A mixture of normals whose rows have holes: what collapses is the law of the latents themselves."""
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[5:, 0] = torch.arange(len(x) - 5) % 3 > 0
    weights = pyro.param("weights", torch.tensor([0.1, 0.9]).double(), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.stack([x[0], x.mean(0)]))
    root = pyro.param("root", torch.stack([0.05 * torch.eye(4), torch.eye(4)]).double(), constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        c = pyro.sample("c", dist.Categorical(weights))
        row = pyro.sample("row", dist.MultivariateNormal(loc[c], scale_tril=root[c]))
        pyro.sample("x", dist.Delta(row).mask(seen).to_event(1), obs=torch.where(seen, x, 0.0))


@pytest.mark.parametrize(("model", "what"), [(analysers, "scale"), (with_holes, "root")])
def test_a_component_on_equal_rows_is_degenerate(model: Callable[..., None], what: str) -> None:
    """Its scales are named: there is no maximum."""
    fit = EM(model).fit(TWICE)
    assert fit.outcome == "degenerate"
    assert any(f'"{what}"[0' in note and "collapsed: the likelihood rises for ever" in note for note in fit.notes)


def test_the_look_at_the_end_counts_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor of latents that are integrated is one number, and an E-step costs more than that."""
    y = alike() + drawn(3, G)[OF]
    monkeypatch.setattr(certificate, "DEAR", 500)
    assert any("too many rows" in note for note in EM(intercepts).fit(y).notes)
    monkeypatch.setattr(Gaussian, "held", 0)
    pyro.clear_param_store()
    assert not EM(intercepts).fit(y).notes


SIX = torch.tensor(
    [
        [-0.1773, -0.4596, -1.5225],
        [0.0239, -0.3437, 0.1260],
        [0.6575, 0.8108, 0.4218],
        [-2.6421, -1.0434, 0.0841],
        [0.8202, -1.0375, -0.7905],
        [1.7285, -2.5633, -0.3405],
    ],
    dtype=torch.float64,
)


def of_two_kinds(x: Tensor) -> None:
    """A factor in each of two states, of which one explains a column."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]).double(), constraint=constraints.simplex)
    loadings = pyro.param("loadings", torch.tensor([[0.8, 0.1, 0.3], [0.5, -0.4, 0.6]]).double())
    loc = pyro.param("loc", torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]]).double())
    scale = positive("scale", torch.ones(3))
    with pyro.plate("rows", len(x)):
        c = pyro.sample("c", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc[c] + loadings[c] * z[:, None], scale).to_event(1), obs=x)


def test_no_way_to_zero_leads_past_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways out of saddles are followed to where scales have digits, and no farther: beyond, steps fall by rounding."""
    fit = EM(of_two_kinds).fit(SIX)
    assert fit.converged
    assert at_boundary(fit.notes) == ['"scale"[0]']
    monkeypatch.setattr(loop, "top_of_face", lambda *_: None)  # no way out of a saddle is needed then
    monkeypatch.setattr(Scales, "shrunk", lambda *_: False)
    pyro.clear_param_store()
    assert EM(of_two_kinds).fit(SIX).outcome == "unconfirmed"


def test_endings_that_do_not_look_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look the collapse is no ending, and the boundary has no name."""
    monkeypatch.setattr(endings, "collapsing", lambda *_: "")
    monkeypatch.setattr(certificate, "at_zero", lambda *_, **__: [])
    monkeypatch.setattr(loop, "gone_to_zero", lambda *_: None)
    assert EM(analysers, max_steps=10).fit(TWICE).outcome != "degenerate"  # seen at the first step
    assert not at_boundary(EM(intercepts).fit(alike()).notes)


def system(x: Tensor) -> None:
    """Eight steps of two states seen in three numbers: errors of moves and of what is seen may both be singular."""
    F, H = pyro.param("F", 0.5 * torch.eye(2).double()), pyro.param("H", drawn(1, 3, 2))
    Q = pyro.param("Q", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    R = pyro.param("R", torch.eye(3).double(), constraint=constraints.lower_cholesky)
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()))
    for t in pyro.markov(range(len(x))):
        z = z if t == 0 else pyro.sample(f"z_{t}", dist.MultivariateNormal(z @ F.T, scale_tril=Q))
        pyro.sample(f"x_{t}", dist.MultivariateNormal(z @ H.T, scale_tril=R), obs=x[t])


@pytest.mark.parametrize("told", [True, False])
def test_digits_that_run_short_are_no_collapse(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """With 24 numbers and 26 errors that are left the likelihood has a bound: nothing says that it has none."""
    if not told:
        monkeypatch.setattr(endings, "near_zero", lambda *_: "")
    fit = EM(system).fit(drawn(1, 8, 3).cumsum(0))
    assert (fit.outcome == "unconfirmed") == told
    assert (fit.outcome == "degenerate") != told
    assert any('lost its digits beside "Q"[0, 0], "Q"[1, 1]' in note for note in fit.notes) == told
