"""Which maxima the starts of a fit have found: how often, how far below the best, and what differs there."""

from functools import partial
from pathlib import Path

import pyro
import torch
from em_pyro.models import gaussian_mixture
from em_pyro.models.data import load
from torch import tensor

import em_pyro
from em_pyro import EM
from em_pyro.fit.starting.runs import SHOWN, Start, Starts, local_maxima

A = {"loc": tensor([1.0, 5.0]), "scale": tensor(2.0), "zero": torch.zeros(2)}
B = {"loc": tensor([5.0, 1.0 + 1e-6]), "scale": tensor(2.0), "zero": torch.zeros(2)}
C = {"loc": tensor([1.0, 5.1]), "scale": tensor(4.0), "zero": torch.zeros(2)}
INFINITE = {"loc": tensor([1.0, torch.inf]), "scale": tensor(2.0), "zero": torch.zeros(0)}


def test_maxima_are_told_apart() -> None:
    """By their objectives; what differs is asked of entries in any order; starts that do not count are left out."""
    ends = [
        (-12.0, "converged"),
        (-10.0, "converged"),
        (-10.000001, "settled"),
        (-9.0, "degenerate"),
        (-10.0, "converged"),
    ]
    runs = [Start(i, level, outcome, 5) for i, (level, outcome) in enumerate(ends)]
    runs[4] = Start(4, -10.0, "converged", 5, repeats=1)
    best, lower = local_maxima(runs, [C, A, B, A, A])
    assert (best.objective, best.starts, best.below, best.differs) == (-10.0, (1, 2), 0.0, ())
    assert (lower.objective, lower.starts, lower.below, lower.differs) == (-12.0, (0,), 2.0, ("scale", "loc"))
    assert local_maxima(runs[3:4], [A]) == ()
    assert Starts(tuple(runs), 1, 2, (best, lower)).maxima == 2


def test_the_same_entries_do_not_differ() -> None:
    """Components in another order are the same; an entry at infinity is another than a finite one."""
    runs = [Start(0, -1.0, "converged", 5), Start(1, -2.0, "converged", 5), Start(2, -3.0, "converged", 5)]
    _, same, far = local_maxima(runs, [A, B, {**INFINITE, "zero": torch.zeros(2)}])
    assert same.differs == ()
    assert str(same) == "1 nats lower: found by 1; what differs: no entry by a thousandth"
    assert far.differs == ("loc",)
    assert local_maxima(runs[:2], [INFINITE, INFINITE])[1].differs == ()


def test_they_are_printed() -> None:
    """A line each below the best, the last ones counted."""
    many = tuple(Start(i, -float(i), "converged", 5) for i in range(SHOWN + 4))
    lines = str(Starts(many, 0, 1, local_maxima(many, [A, C] * SHOWN))).split("\n")
    assert lines[0] == f"best of {SHOWN + 4} starts, found by 1, {SHOWN + 4} different maxima"
    assert lines[1] == "  1 nats lower: found by 1; what differs: scale, loc"
    assert lines[-1] == f"  and 3 more, down to {-SHOWN - 3:.6f}"
    assert len(lines) == SHOWN + 2


def test_a_fit_knows_them(tmp_path: Path) -> None:
    """Of a likelihood with several maxima, in a file too: every start that converged is in one, the best first."""
    x = torch.tensor(load("galaxies")["x"]).double()
    fit = EM(partial(gaussian_mixture.univariate, K=4), starts=8, screen=False, max_steps=200).fit(x)
    starts = fit.starts
    assert starts.maxima == len(starts.local_maxima) > 1
    ended = [run.index for run in starts.different if run.outcome == "converged"]
    assert sorted(index for one in starts.local_maxima for index in one.starts) == ended
    assert starts.best in starts.local_maxima[0].starts
    for one in starts.local_maxima[1:]:
        assert one.differs
        assert f"{one.below:.4g} nats lower" in str(fit)
    pyro.clear_param_store()
    fit.save(tmp_path / "fit.pt")
    assert em_pyro.load(tmp_path / "fit.pt").starts == starts
