"""The race between EM, SVI and L-BFGS: each rule of fairness, on programs of a few rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, poisson_mixture
from oracles.tolerances import IDENTITY, SOLVERS
from programs import registry
from pyro.infer.autoguide import AutoNormal

from em_pyro import EM, analytic
from em_pyro.cli.commands import main
from em_pyro.compare import Race, compare, em, lbfgs, svi, svi_bayes, svi_map
from em_pyro.compare.stochastic import NotAble, _same
from em_pyro.errors import ParameterError


def adam(lr: float = 0.05) -> pyro.optim.PyroOptim:
    """Make the optimiser that most people use."""
    return pyro.optim.Adam({"lr": lr})


def race(name: str, **options: Any) -> Race:
    """Race on a small program, silently."""
    case = registry.build(name)
    settings = {"budget_seconds": 20.0, "max_steps": 40, "echo": lambda _: None} | options
    return compare(case.model, args=case.args, **settings)


def everybody() -> dict[str, Any]:
    """All contenders that share the objective."""
    squarem = em(acceleration="squarem")
    return {"EM": em(), "EM + SQUAREM": squarem, "SVI": svi(adam()), "MAP": svi_map(adam()), "L-BFGS": lbfgs()}


def test_same_start_same_objective() -> None:
    """Every contender begins where the others do, on the same objective, and climbs."""
    found = race("binomial_coins", contenders=everybody(), starts=2)
    for start in range(2):
        lanes = [lane for lane in found.lanes if lane.start == start]
        first = lanes[0].points[0].objective
        for lane in lanes:
            assert abs(lane.points[0].objective - first) <= IDENTITY * (1 + abs(first)), lane.contender
            assert lane.points[0].step == 0
            assert lane.points[0].seconds == 0
            assert lane.best > first
            assert lane.first_seconds > 0
    a, b = (found.of("EM")[start].points[0].objective for start in range(2))
    assert a != b
    assert found.best.tested
    assert found.best.gradient < 1e-5


def test_starts_are_those_of_fit() -> None:
    """EM in the race walks the path of `EM.fit`, from each of its starts."""
    found = race("binomial_coins", contenders={"EM": em()}, starts=2, seed=3)
    case = registry.build("binomial_coins")
    with pyro.get_param_store().scope():
        fit = EM(case.model, starts=2, seed=3).fit(*case.args)
    for lane, start in zip(found.of("EM"), fit.starts, strict=True):
        assert abs(lane.best - start.objective) <= IDENTITY * (1 + abs(start.objective))
        assert lane.points[-1].step == start.num_steps


def test_prices() -> None:
    """A step is one pass over the data, and costs what it costs."""
    found = race("binomial_coins", contenders=everybody())
    for lane in found.lanes:
        steps = [p.step for p in lane.points]
        assert steps == sorted(set(steps))
        assert steps[-1] <= 40
        seconds = [p.seconds for p in lane.points]
        assert seconds == sorted(seconds)
        for p in lane.points:
            assert p.e_steps == p.step
            assert p.gradients == (0 if lane.contender.startswith("EM") and p.step < 5 else p.gradients)
        if not lane.contender.startswith("EM"):
            assert all(p.gradients == p.step for p in lane.points)
    assert len(found.of("SVI")[0].points) == 40
    assert found.of("SVI")[0].ending == "step limit"


def test_nothing_is_left_behind() -> None:
    """Param store, generators and optimisers are as before."""
    pyro.param("theta", torch.tensor(3.0))
    optim, before, state = adam(), pyro.get_param_store().get_state(), torch.get_rng_state()
    race("binomial_coins", contenders={"EM": em(), "SVI": svi(optim), "L-BFGS": lbfgs()}, starts=2, max_steps=5)
    after = pyro.get_param_store().get_state()
    assert after["params"].keys() == before["params"].keys() == {"theta"}
    assert torch.equal(state, torch.get_rng_state())
    assert not optim.optim_objs


@pytest.mark.parametrize("name", ["ModuleMixture", "RegisteredLinear", "NestedLinear"])
def test_modules_are_restored(name: str) -> None:
    """A module's parameters are the same tensors with the same values afterwards."""
    case = registry.build(name)
    module = case.model if isinstance(case.model, torch.nn.Module) else case.model.linear
    before = {n: (p, p.detach().clone()) for n, p in module.named_parameters()}
    found = compare(case.model, args=case.args, contenders=everybody(), max_steps=10, echo=lambda _: None)
    assert all(lane.points for lane in found.lanes), [lane.message for lane in found.lanes]
    firsts = [lane.points[0].objective for lane in found.lanes]
    assert max(firsts) - min(firsts) <= IDENTITY * (1 + abs(firsts[0]))
    for n, p in module.named_parameters():
        assert p is before[n][0]
        assert torch.equal(p, before[n][1])
        assert p.grad is None
    assert not list(pyro.get_param_store().keys())


def test_bound_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    """The longest that it can take is printed before it begins."""
    case = registry.build("binomial_coins")
    compare(case.model, args=case.args, contenders={"A": em(), "B": em(tol=1e-4)}, starts=3, budget_seconds=0.5)
    assert "at most 3.5 s" in capsys.readouterr().out


def test_budget_ends_a_lane() -> None:
    """A contender that would go on for ever is stopped when its time is up."""
    found = race("gap_in_chain", contenders={"EM": em(tol=0, max_steps=10**6)}, budget_seconds=0.2, max_steps=10**6)
    (lane,) = found.lanes
    assert lane.ending == "time"
    assert 0.1 < lane.points[-1].seconds < 2


@pytest.mark.parametrize("name", ["row_weights", "nested_counts"])
def test_svi_cannot_weigh_rows(name: str) -> None:
    """Where SVI is not able, the race says so in Pyro's words and goes on."""
    found = race(name, contenders={"SVI": svi(adam()), "EM": em(), "L-BFGS": lbfgs()}, max_steps=5)
    lane = found.of("SVI")[0]
    assert lane.ending == "not able"
    assert "scalar poutine.scale" in lane.message
    assert "scalar poutine.scale" in str(found)
    assert found.of("EM")[0].points
    assert found.of("L-BFGS")[0].points


def test_priors() -> None:
    """With priors an empty guide is refused, and `AutoDelta` has the objective of EM."""
    found = race("scaled_data_plain_prior", contenders=everybody())
    assert "svi_map" in found.of("SVI")[0].message
    firsts = [found.of(name)[0].points[0].objective for name in ("EM", "MAP", "L-BFGS")]
    assert max(firsts) - min(firsts) <= IDENTITY * (1 + abs(firsts[0]))


def test_another_objective_is_refused() -> None:
    """A loss that is not the objective of the race is found out at the start."""
    case = registry.build("binomial_coins")
    here = EM(case.model)._prepare(case.args, {})
    _same(here, -10.0, -10.0)
    with pytest.raises(NotAble, match="at the start"):
        _same(here, -10.0, -10.001)


def test_best_known_is_tested() -> None:
    """All contenders that sit on a saddle do not make it the maximum."""
    x = poisson_mixture.simulate(n=100, seed=1)
    start = {"weights": torch.tensor([0.5, 0.5]), "rate": torch.tensor([3.0, 3.0])}
    options = {"starts": start, "max_steps": 20, "echo": lambda _: None}
    found = compare(poisson_mixture.poisson_mixture, args=(x,), contenders={"L-BFGS": lbfgs()}, **options)
    assert found.best.tested
    assert found.best.objective > found.lanes[0].best + 1
    assert any("saddle" in note for note in found.best.notes)


def test_collapse_does_not_win() -> None:
    """A start that ran into an unbounded likelihood is named and not counted."""
    x = torch.tensor([-1.3, 0.2, 2.9, 3.4, 0.9, 1.1, -0.4])
    bad = {"weights": torch.tensor([0.5, 0.5]), "loc": torch.tensor([3.4, 0.9]), "scale": torch.tensor([1e-3, 1.0])}
    good = {"weights": torch.tensor([0.5, 0.5]), "loc": torch.tensor([0.0, 3.0]), "scale": torch.tensor([1.0, 1.0])}
    options = {"starts": [bad, good], "max_steps": 200, "echo": lambda _: None}
    found = compare(gaussian_mixture.univariate, args=(x,), contenders={"EM": em()}, **options)
    assert [lane.ending for lane in found.lanes] == ["degenerate", "converged"]
    assert found.best.objective < found.lanes[0].best
    assert len(found.reached("EM", 1.0)) == 1


def bayesian(x: torch.Tensor) -> None:
    """Mix two Normals whose means have a prior."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=dist.constraints.simplex)
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_full_bayes_is_held_out() -> None:
    """A full Bayesian contender has a column of its own, and no line on the axes of the others."""
    x = gaussian_mixture.simulate(n=40, D=0, seed=2)
    bayes = svi(adam(0.1), guide=AutoNormal)
    assert bayes == svi_bayes(bayes.options["optim"]) or bayes.kind == "svi_bayes"
    with pytest.raises(ParameterError, match="held_out"):
        compare(bayesian, args=(x,), contenders={"Bayes": bayes}, echo=lambda _: None)
    options = {"held_out": (x[30:],), "max_steps": 150, "budget_seconds": 10, "echo": lambda _: None}
    found = compare(bayesian, args=(x[:30],), contenders={"EM": em(), "Bayes": bayes}, **options)
    lanes = {lane.contender: lane for lane in found.lanes}
    assert lanes["Bayes"].points, lanes["Bayes"].message
    with pyro.get_param_store().scope():
        fit = EM(bayesian, starts=1).fit(x[:30])
    want = float(fit.posterior_on(x[30:]).log_evidence_by("row").sum())
    assert lanes["EM"].held_out == pytest.approx(want, rel=1e-5)
    assert lanes["Bayes"].held_out == pytest.approx(want, abs=3)
    assert not found.reached("Bayes", 1e9)
    assert "held-out" in str(found)
    assert [handle.get_text() for handle in found.plot().legends[0].get_texts()] == ["EM"]


def test_analytic_agreement() -> None:
    """An independent EM, derived by hand, walks the same path."""
    counts = poisson_mixture.simulate(n=50, seed=1)

    def by_hand(start: Any, steps: int) -> analytic.ParameterPath:
        return analytic.poisson_mixture(counts.numpy(), start["rate"].numpy(), start["weights"].numpy(), steps=steps)

    def wrong(start: Any, steps: int) -> np.ndarray:
        return by_hand(start, steps).log_likelihood + 0.5

    texts = []
    for other in (by_hand, wrong):
        model, options = poisson_mixture.poisson_mixture, {"max_steps": 5, "echo": lambda _: None}
        found = compare(model, args=(counts,), contenders={"EM": em()}, analytic=other, **options)
        texts.append(found.agreement)
        assert found.agreement in str(found)
    assert float(texts[0].split("at most ")[1].split()[0]) < SOLVERS
    assert "5.0e-01" in texts[1]


def test_report(tmp_path: Path) -> None:
    """The table names threads, dtype and contenders; the file holds every point; the figure two axes."""
    found = race("binomial_coins", contenders=everybody(), starts=2)
    text = str(found)
    for word in ("1 thread", "float64", "E-steps", "gradients", "within 0.001", "2/2", *everybody()):
        assert word in text
    found.to_csv(tmp_path / "race.csv")
    rows = list(csv.DictReader((tmp_path / "race.csv").read_text().splitlines()))
    assert len(rows) == sum(len(lane.points) for lane in found.lanes)
    assert float(rows[0]["objective"]) == found.lanes[0].points[0].objective
    figure = found.plot()
    figure.savefig(tmp_path / "race.png")
    assert [ax.get_xlabel().split()[0] for ax in figure.axes] == ["seconds", "steps"]
    assert all(ax.get_yscale() == "log" for ax in figure.axes)
    assert "Best known" in text


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"contenders": {}}, "contender"),
        ({"contenders": {"EM": EM}}, "em, svi"),
        ({"contenders": {"EM": em()}, "budget_seconds": 0}, "budget"),
        ({"contenders": {"EM": em()}, "held_out": [1]}, "tuple"),
        ({"contenders": {"EM": em(acceleration="fast")}}, "acceleration"),
    ],
)
def test_wrong_options(options: dict[str, Any], word: str) -> None:
    """What does not fit is refused before anything runs."""
    with pytest.raises(ParameterError, match=word):
        race("binomial_coins", **options)


def test_wrong_contenders() -> None:
    """Options that belong to the race, and optimisers of another library, are refused."""
    for name in ("starts", "seed", "progress", "callback"):
        with pytest.raises(ParameterError, match=name):
            em(**{name: 1})
    with pytest.raises(ParameterError, match="pyro.optim"):
        svi(torch.optim.Adam)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="history_size"):
        lbfgs(history_size=0)
    with pytest.raises(ParameterError, match="draw"):
        svi_bayes(adam(), draws=0)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`em-pyro compare` races on a file, and draws and saves what was asked for."""
    png, file = tmp_path / "race.png", tmp_path / "race.csv"
    options = ["--starts", "1", "--budget", "0.3", "--plot", str(png), "--csv", str(file)]
    assert main(["compare", "coins", *options]) == 0
    text = capsys.readouterr().out
    assert "at most 1.8 s" in text
    assert "EM accelerated" in text
    assert png.stat().st_size > 10_000
    assert file.read_text().startswith("contender,start,step")
    with pytest.raises(SystemExit):
        main(["compare", "coins", "--budget", "0"])
