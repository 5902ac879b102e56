"""What is promised to whoever adds a unit: a class, a function that takes sites, and a row in the table of takers.

Two are added here. `Nested` sums out a latent of its own, and its statistics are named by class, not by site. `Pair` is
the smallest there can be. Both are held to the same program without them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pytest
import torch
from oracles.engines import Built, distance, farthest, lay_out
from oracles.oracle import brute_force
from oracles.steps import em_step, expect, q
from oracles.tolerances import IDENTITY, SOLVERS
from programs.toy_unit import Taker, X, Y, nested, pair, taking_nested
from torch import Tensor, tensor

from em_pyro import EM
from em_pyro.e_step import build as table
from em_pyro.e_step import chunks
from em_pyro.e_step.chunks import WHOLE, Chunk
from em_pyro.e_step.contraction.mixture import Mixture
from em_pyro.e_step.left import Left
from em_pyro.e_step.sites.site_factor import SiteFactor
from em_pyro.e_step.sums import Sums
from em_pyro.e_step.units import Unit
from em_pyro.m_step.plan import choose
from em_pyro.posterior.posterior import Posterior
from em_pyro.program.named import Named
from em_pyro.reading.bound import Bound

FAR = 1e-3
"""What a planted fault must be off by, at least: seven digits above rounding."""

# ---- the smallest unit -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair(Unit):
    """Two observations of one class as one factor, each by its own site's products.

    Attributes:
        fault: planted: the second is left out of the density.
    """

    sites: tuple[SiteFactor, ...]
    fault: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """One factor."""
        return (self.sites[0].name,)

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """Both have statistics."""
        return self.sites

    def natural(
        self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None
    ) -> list[Any]:
        """Bind each."""
        return [factor.natural(bound, about) for factor in self.sites]

    def log_factors(self, natural: Sequence[Any], chunk: Chunk = WHOLE) -> tuple[list[Tensor], None]:
        """The sum of both."""
        pairs = zip(self.sites, natural, strict=True)
        found = [factor.log_density(eta, factor.features(chunk), chunk) for factor, eta in pairs]
        return [found[0] if self.fault else found[0] + found[1]], None

    def sums(
        self, shares: Sequence[Tensor | None], natural: Sequence[Any] | None, memo: None, chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Both under the same weights."""
        (share,) = shares
        assert share is not None
        pairs = zip(self.sites, natural or (None, None), strict=True)
        return {f.name: f.weighted(share, eta, f.features(chunk), chunk) for f, eta in pairs}

    def made_of(self, member: str) -> tuple[SiteFactor, ...]:
        """Both."""
        return self.sites

    def finish(self, found: Mapping[str, Tensor], natural: Sequence[Any] | None) -> dict[str, Sums]:
        """Each by itself."""
        pairs = zip(self.sites, natural or (None, None), strict=True)
        return {f.name: f.finish(found[f.name], eta) for f, eta in pairs if f.name in found}

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """They never run short: data are near zero."""
        return None

    def width(self, plate: str) -> int:
        """Features of a row."""
        return sum(factor.data.width for factor in self.sites)


def taking_pair(fault: str = "") -> Taker:
    """A row of the table of takers."""

    def take(left: Left) -> tuple[Sequence[Unit], Left]:
        sites = {factor.name: factor for stack in left.stacks for factor in stack.every}
        unit = Pair((sites["x"], sites["y"]), fault)
        return (unit,), left.taking(("x", "y"), left.factors["x"])

    return take


# ---- with and without ------------------------------------------------------------------------------------------------

Model = Callable[[Tensor, Tensor], None]
Ours: Mapping[Model, Callable[[str], Taker]] = {nested: taking_nested, pair: taking_pair}


def built(model: Model, monkeypatch: pytest.MonkeyPatch, fault: str | None = None) -> Built:
    """Lay a program out, without the unit or with it."""
    with monkeypatch.context() as patch:
        if fault is not None:
            patch.setattr(table, "TAKERS", with_row(Ours[model](fault)))
        found = lay_out(model, (X, Y))
        assert found.compiled.units
    return found


def with_row(take: Taker) -> tuple[Taker, ...]:
    """The table of takers with one row more, behind what lays sites out."""
    return (*table.TAKERS[:2], take, *table.TAKERS[2:])


def off(with_it: Built, without: Built, latents: Sequence[str]) -> dict[str, float]:
    """How far two layouts of one program are apart, in all that an engine is for."""
    one, other, here, there = with_it.compiled, without.compiled, without.here, without.there
    found = [expect(engine, here) for engine in (one, other)]
    gains = [q(e, there, f) - q(e, here, f) for e, f in zip((one, other), found, strict=True)]
    steps = [em_step(engine, choose(engine, {}, {}), here)[0] for engine in (one, other)]
    laws = [Posterior(here, float(f.log_evidence), e) for e, f in zip((one, other), found, strict=True)]
    return {
        "evidence": distance(found[0].log_evidence, found[1].log_evidence),
        "rows": distance(laws[0].log_evidence_by("rows"), laws[1].log_evidence_by("rows")),
        "marginal": max(distance(laws[0].marginal(name), laws[1].marginal(name)) for name in latents),
        "mode": max(distance(laws[0].mode()[name], laws[1].mode()[name]) for name in latents),
        "gain": distance(gains[0], gains[1]),
        "step": farthest(steps[0], steps[1]),
    }


LATENTS: Mapping[Model, tuple[str, ...]] = {nested: ("z", "h"), pair: ("z",)}


def test_without_ones_own_a_mixture_is_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only units that say so are computed past: the library's own are, one that a stranger wrote is asked."""
    assert isinstance(built(pair, monkeypatch).compiled.parts[0], Mixture)
    assert not isinstance(built(pair, monkeypatch, "").compiled.parts[0], Mixture)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("model", [nested, pair])
def test_a_unit_of_ones_own_changes_no_number(
    model: Model,
    chunked: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Evidence, posterior, gain of Q and step are those of the program without it, and of brute force."""
    if chunked:
        monkeypatch.setattr(chunks, "LEAST", 2)
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    with_it, without = built(model, monkeypatch, ""), built(model, monkeypatch)
    assert max(off(with_it, without, LATENTS[model]).values()) < IDENTITY
    few = tuple(part[:3] for part in (X, Y))
    exact = brute_force(model, few, params=without.here).log_evidence
    with monkeypatch.context() as patch:
        patch.setattr(table, "TAKERS", with_row(Ours[model]("")))
        found = expect(lay_out(model, few).compiled, without.here)
    assert distance(found.log_evidence.squeeze(0), exact) < IDENTITY
    assert len(with_it.compiled.parts[0].chunks()) == (3 if chunked else 1)


@pytest.mark.parametrize(
    ("model", "fault", "seen"),
    [
        (nested, "density", ("evidence", "rows", "marginal", "step")),
        (nested, "sums", ("gain", "step")),
        (nested, "law", ("marginal", "gain", "step")),
        (pair, "density", ("evidence", "rows", "marginal", "gain", "step")),
    ],
)
def test_a_wrong_unit_is_noticed(
    model: Model, fault: str, seen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault planted in the unit is far off wherever it matters: what is asked is the unit, and nothing instead."""
    apart = off(built(model, monkeypatch, fault), built(model, monkeypatch), LATENTS[model])
    assert {name: apart[name] > FAR for name in seen} == dict.fromkeys(seen, True)


def test_statistics_are_named_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums carry the names that the unit gives them, the plan finds closed forms by them, and nothing else is there."""
    found = built(nested, monkeypatch, "")
    names = {f"{site} of {k}" for site, size in (("h", 3), ("x", 2), ("y", 3)) for k in range(size)}
    assert set(expect(found.compiled, found.here).sums) == names | {"z"}
    assert {line.how for line in found.plan.lines.values()} == {"closed form"}
    assert found.plan["rate"].sites == ("y",)


def test_draws_inside_a_unit_follow_its_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frequencies of both latents are their marginals, to four standard errors of a thousand draws."""
    found = built(nested, monkeypatch, "")
    law = Posterior(found.here, 0.0, found.compiled)
    draws = law.sample(1000, seed=3)
    for name in LATENTS[nested]:
        p = law.marginal(name)
        share = torch.stack([(draws[name] == k).double().mean(0) for k in range(p.shape[-1])], -1)
        assert bool(((share - p).abs() <= 4 * (p * (1 - p) / 1000).sqrt() + FAR).all())


def test_a_fit_runs_through_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """From three starts, whose states are drawn, to the same end as without it."""
    ends = []
    for row in (None, taking_nested("")):
        with monkeypatch.context() as patch:
            if row is not None:
                patch.setattr(table, "TAKERS", with_row(row))
            pyro.clear_param_store()
            fit = EM(nested, starts=3, seed=1, tol=0, max_steps=25).fit(X, Y)
            ends.append((tensor(fit.log_likelihood), fit.params))
    assert distance(ends[1][0], ends[0][0]) < SOLVERS
    assert farthest(ends[1][1], ends[0][1]) < SOLVERS
