"""Clusters far apart, and offsets from zero: no digit is lost, whichever form the densities take."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from oracles.engines import distance, laid_out, lay_out
from oracles.steps import em_step, expect, q
from oracles.tolerances import IDENTITY, SOLVERS
from programs.pairs import pairwise
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, ObjectiveError
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.several.bundle import Bundle
from em_pyro.e_step.several.stack import Stack
from em_pyro.e_step.sites import centring
from em_pyro.fit.problem import prepare
from em_pyro.program.named import batched

TWO_PASS = 1e-9
"""Against mean and variance by the two-pass formula, relative to the variance."""

FORMS = ("full", "tied", "diagonal", "spherical")
SHARED = "one centre for all cells; each its own where a scale is below"


def clusters(apart: float, offset: float, n: int = 200) -> Tensor:
    """Two clusters of correlated points, so many standard deviations apart."""
    x = torch.randn(2 * n, 2, generator=torch.Generator().manual_seed(0))
    x[n:] = x[n:] @ torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    x[n:] += apart
    return x + offset


def two_pass(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Means of both halves, and their covariances as the model has them."""
    halves = x.chunk(2)
    means = torch.stack([half.mean(0) for half in halves])
    covariances = torch.stack([(h - m).T @ (h - m) / len(h) for h, m in zip(halves, means, strict=True)])
    variances = covariances.diagonal(dim1=-2, dim2=-1)
    wanted = {
        "full": covariances,
        "tied": covariances.mean(0),
        "diagonal": variances,
        "spherical": variances.mean(-1),
    }
    return means, wanted[kind]


def fitted(x: Tensor, kind: str, **options: object) -> tuple[Tensor, Tensor, int, str]:
    """Means, covariances, number of switches, and the plan of a fit that starts near."""
    halves = x.chunk(2)
    loc = torch.stack([halves[0].mean(0) + 0.1, halves[1].mean(0) - 0.2])
    em = EM(getattr(gaussian_mixture, kind), starts={"loc": loc}, tol=0, max_steps=30, **options)  # type: ignore[arg-type]
    fit = em.fit(x, 2)
    scale = fit.params.get("scale")
    covariance = fit.params["scale_tril"] @ fit.params["scale_tril"].mT if scale is None else scale.square()
    return fit.params["loc"], covariance, fit.switches, str(fit.plan)


FAR = pairwise({"kind": list(FORMS), "apart": [1e2, 1e4, 1e6], "offset": [0.0, 1e8]})


@pytest.mark.parametrize(("kind", "apart", "offset"), [tuple(one.values()) for one in FAR])
def test_as_the_two_pass_formula(kind: str, apart: float, offset: float) -> None:
    """Clusters 1e2, 1e4 and 1e6 standard deviations apart, near zero and far from it."""
    x = clusters(apart, offset)
    loc, covariance, switches, plan = fitted(x, kind)
    means, wanted = two_pass(x, kind)
    assert float((covariance - wanted).abs().max() / wanted.abs().max()) < TWO_PASS
    assert torch.allclose(loc, means, rtol=1e-15, atol=TWO_PASS)
    assert SHARED in plan
    assert switches == (apart > 1e3)


def test_one_centre_would_lose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held to the form with one centre, clusters 1e6 apart come out wrong: cells of their own keep the digits."""
    x = clusters(1e6, 0.0)
    monkeypatch.setattr(centring, "FARTHEST", float("inf"))
    try:
        _, covariance, _, _ = fitted(x, "full")
    except ObjectiveError:
        return
    assert not torch.allclose(covariance, two_pass(x, "full")[1], rtol=TWO_PASS)


def test_a_second_pass_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a step that shrinks a scale two-hundredfold leaves that scale wrong, whatever the form after it."""
    x = clusters(1e4, 0.0)
    halves = x.chunk(2)
    loc = torch.stack([halves[0].mean(0) + 0.1, halves[1].mean(0) - 0.2])
    options = {"starts": {"loc": loc, "scale_tril": 200 * torch.eye(2).repeat(2, 1, 1)}, "tol": 0, "max_steps": 1}
    wanted = two_pass(x, "full")[1]

    def off() -> float:
        pyro.clear_param_store()
        found = EM(gaussian_mixture.full, **options).fit(x, 2).params["scale_tril"]  # type: ignore[arg-type]
        return float((found @ found.mT - wanted).abs().max())

    right = off()
    monkeypatch.setattr(Stack, "digits", lambda self, bound, near: None)
    monkeypatch.setattr(Bundle, "digits", lambda self, bound, near: None)
    assert off() > 10 * right


def test_the_form_follows_the_scales() -> None:
    """A start with small scales begins around each cell's own location; the faster form comes back as they grow."""
    x = clusters(1e4, 0.0)
    loc = torch.stack([half.mean(0) for half in x.chunk(2)])
    small = torch.eye(2).repeat(2, 1, 1)
    em = EM(gaussian_mixture.full, starts={"loc": loc, "scale_tril": small}, max_steps=5)
    fit = em.fit(x, 2)
    assert fit.switches == 0, "the start needs the form and so does the end"
    assert torch.equal(fit.posterior.marginal("component").argmax(-1), torch.arange(400) // 200)
    pyro.clear_param_store()
    wide = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    grown = EM(gaussian_mixture.full, starts={"scale_tril": 1e-2 * small}).fit(wide, 2)
    assert grown.switches == 0, "nothing is summed again where scales grow"


@pytest.mark.parametrize("kind", FORMS)
def test_both_forms_agree(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ordinary data the two forms are one step: evidence and new parameters, blocks and starts as well."""
    built = lay_out(getattr(gaussian_mixture, kind), (gaussian_mixture.simulate(),))
    one, first = em_step(built.compiled, built.plan, built.here)
    monkeypatch.setattr(centring, "FARTHEST", 0.0)
    own: Engine = lay_out(getattr(gaussian_mixture, kind), (gaussian_mixture.simulate(),)).compiled
    assert own.parts[0].natural(own.bind(batched(built.here)), None, {}).rows.each[0].own is not None
    other, second = em_step(own, built.plan, built.here)
    assert distance(first.objective, second.objective) < IDENTITY
    assert max(distance(one[n], other[n]) for n in one) < IDENTITY
    gains = [float(q(built.compiled, built.there, f) - q(built.compiled, built.here, f)) for f in (first, second)]
    assert distance(*gains) < SOLVERS
    wrong = {**built.here, "loc": built.here["loc"] * 1.001}
    assert distance(em_step(own, built.plan, wrong)[1].objective, first.objective) > IDENTITY


def test_a_ridge_keeps_its_digits() -> None:
    """One cluster stretched over two far apart: ill-conditioned, and no step falls."""
    x = clusters(1e5, 0.0, n=100)
    loc = torch.stack([x.mean(0), x.mean(0) + torch.tensor([0.0, 1.0])])
    wide = torch.diag(x.std(0)).repeat(2, 1, 1)
    fit = EM(gaussian_mixture.full, starts={"loc": loc, "scale_tril": wide}, max_steps=300).fit(x, 2)
    assert fit.switches > 0
    assert min(b - a for a, b in zip(fit.path, fit.path[1:], strict=False)) > -IDENTITY * (1 + abs(fit.objective))


LAID_OUT = (
    *("markov_chain", "batch_of_chains", "hmm_ragged", "loop_of_eight", "loop_ragged_and_weighted", "hmm-factorial"),
    *("masked_rows", "missing_cells", "padded_chains", "multivariate_mixture", "diagonal_mixture", "gaussian-tied"),
    *("three_nested_plates", "latents_at_every_level", "row_counts", "sequence_counts", "hmm-multivariate"),
)
"""Programs with locations, their rows laid out in every way."""


@pytest.mark.parametrize("name", LAID_OUT)
def test_programs_in_both_forms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, events, folded plates, loops and chains: cells around their own locations give the same evidence and Q."""
    built = laid_out(name)
    engine = built.compiled
    assert any(factor.centres for factor in engine.leaders.values())
    one = expect(engine, built.here)
    gain = float(q(engine, built.there, one) - q(engine, built.here, one))
    monkeypatch.setattr(centring, "FARTHEST", 0.0)
    other = expect(engine, {n: value.clone() for n, value in built.here.items()})
    assert distance(one.log_evidence, other.log_evidence) < IDENTITY
    assert distance(gain, float(q(engine, built.there, other) - q(engine, built.here, other))) < IDENTITY


def mixed(kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Two wide clusters and a thin one, far enough apart that no row has weight in two; and arguments near."""
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    x[100:200] = 1e-4 * x[100:200] + torch.tensor([9.0, 5.0])
    x[200:] = x[200:] + 60.0
    x[:100] -= 60.0
    loc = torch.stack([part.mean(0) for part in x.chunk(3)])
    scale = torch.tensor([1.5, 2e-4, 1.5])
    if kind == "diagonal":
        return x, {"loc": loc, "scale": scale[:, None].expand(3, 2).clone()}
    return x, {"loc": loc, "scale_tril": scale[:, None, None] * torch.eye(2)}


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_a_thin_component_among_wide_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone is around its own location, and all three are as by the two-pass formula; with one centre it is not."""
    x, near = mixed(kind)
    built = lay_out(getattr(gaussian_mixture, kind), (x, 3))
    here = {**built.here, **{n: value.double() for n, value in near.items()}}
    wide = torch.stack([part.var(0, correction=0) for part in x.double().chunk(3)])

    def variances() -> Tensor:
        params = {n: value.clone() for n, value in here.items()}
        new, _ = em_step(built.compiled, built.plan, params)
        return (
            new["scale"].square()
            if kind == "diagonal"
            else (new["scale_tril"] @ new["scale_tril"].mT).diagonal(0, 1, 2)
        )

    own = built.compiled.parts[0].natural(built.compiled.bind(batched(here)), None, {}).rows.each[0].own
    assert own.which.tolist() == [1]
    assert not own.every
    assert float((variances() / wide - 1).abs().max()) < TWO_PASS
    monkeypatch.setattr(centring, "FARTHEST", float("inf"))
    assert float((variances() / wide - 1).abs().max()) > TWO_PASS


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_of_several_starts_one_is_narrow(kind: str) -> None:
    """A batch of starts, of which one has a cell around its own location, gives what each start gives alone."""
    x, near = mixed(kind)
    built = lay_out(getattr(gaussian_mixture, kind), (x, 3))
    engine = built.compiled
    thin = {**built.here, **near}
    key, ones = ("scale", torch.ones(2)) if kind == "diagonal" else ("scale_tril", torch.eye(2))
    broad = {**thin, "loc": near["loc"] + 0.5, key: near[key] + 3.0 * ones}
    starts = [broad, thin, broad]
    bound = engine.bind({n: torch.stack([start[n] for start in starts]) for n in broad})
    own = engine.parts[0].natural(bound, None, {}).rows.each[0].own
    assert own.which.tolist() == [4]
    together = engine.expect(bound)
    for k, start in enumerate(starts):
        alone = expect(engine, start)
        assert distance(together.log_evidence[k], alone.log_evidence[0]) < IDENTITY
        for name, sums in alone.sums.items():
            parts = zip(together.sums[name].parts, sums.parts, strict=True)
            assert max(distance(whole[k], part[0]) for whole, part in parts) < IDENTITY


def narrow(x: Tensor) -> None:
    """Families in which a logarithm, a cosine or a ratio meets a large argument."""
    loc = pyro.param("loc", x.new_tensor([0.5, -0.3]))
    k = pyro.param("k", x.new_tensor([3.0, 1.0]), constraint=constraints.positive)
    a, b, c = (pyro.param(name, x.new_tensor([3.0, 2.0]), constraint=constraints.positive) for name in "abc")
    prior = pyro.sample("prior", dist.Gamma(x.new_tensor(3.0), x.new_tensor(2.5)))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(x.new_tensor([0.5, 0.5])))
        pyro.sample("angle", dist.VonMises(loc[z], k[z]), obs=x)
        pyro.sample("size", dist.Gamma(a[z], b[z]), obs=x)
        pyro.sample("share", dist.Beta(c[z], c[z]), obs=x)
        pyro.sample("wait", dist.Exponential(prior), obs=x)


def test_single_data_have_the_densities_of_their_doubles() -> None:
    """Nothing is computed from rows, or of a prior, before they are numbers in double precision."""
    x = torch.tensor([0.5001, 0.4999, 0.5004, 0.2], dtype=torch.float32)
    values = {
        "loc": [0.5, -0.3],
        "k": [2.5e6, 1.0],
        "a": [1.7e6, 2.0],
        "b": [3.4e6, 4.0],
        "c": [9e5, 1.0],
        "prior": 1.3,
    }
    found = []
    for data in (x, x.double()):
        pyro.clear_param_store()
        start = {name: torch.tensor(v, dtype=torch.float32).to(data.dtype) for name, v in values.items()}
        problem = prepare(narrow, (data,), {}, {}, check=True)
        here = batched({name: value.double() for name, value in start.items()})
        found.append(problem.objective(here))
    assert distance(torch.tensor(found[0]), torch.tensor(found[1])) < IDENTITY
