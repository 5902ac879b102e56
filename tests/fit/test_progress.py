"""What the bar says: the objective, what is left in nats, and in how many steps the fit will end."""

import re
from collections.abc import Mapping
from math import inf
from typing import Any

import pyro
import pytest
from programs.loops import mixture, points

from em_pyro import EM
from em_pyro.fit.progress import Seen, points_left, said

FIT: Mapping[str, Mapping[str, Any]] = {
    "plain": {"acceleration": None},
    "starts": {"starts": 3},
    "squarem": {"acceleration": "squarem"},
    "quasi-newton": {"acceleration": "quasi-newton"},
    "hard": {"e_step": "hard"},
    "sampled": {"e_step": "sampled", "max_steps": 20},
    "all steps": {"tol": 0, "max_steps": 20},
}


def geometric(rate: float, many: int, *, by: int = 1) -> tuple[Seen, ...]:
    """Go towards minus 100 at a rate, a second a point, so many steps a point."""
    return tuple(Seen(k * by, -100 - 8 * rate**k, float(k)) for k in range(many))


@pytest.mark.parametrize("by", [1, 3])
def test_a_rate_tells_the_end(by: int) -> None:
    """What is left halves with every point: the number of halvings is known, and so are steps and seconds."""
    text = said(geometric(0.5, 6, by=by), 1e-6, 10_000)  # 8 / 32 are left, until 1.0025e-4: 11.3 halvings
    assert text == f"objective -100.2500; to go 2e-01 nats, ~{12 if by == 1 else 34} steps, 11 s"
    assert "~6 steps, 6.0 s" in said(geometric(0.5, 6), 1e-6, 11), "the cap comes sooner"
    assert "~5 steps" in said(geometric(0.5, 6), 0.0, 10), "with tol=0 only the cap counts"
    assert "~0 steps" in said(geometric(0.5, 30), 1e-6, 10_000)


def test_nothing_is_said_of_what_is_not_known() -> None:
    """Of one point or two there is no rate, and none where gains grow."""
    assert said(geometric(0.5, 2), 1e-6, 100) == "objective -104.0000"
    growing = tuple(Seen(k, -100 + 2.0**k, float(k)) for k in range(6))
    assert "~" not in said(growing, 1e-6, 1000)
    assert said((Seen(0, -0.0123456, 0.0),), 1e-6, 100) == "objective -0.0123456"
    assert points_left(inf, 0.9999, 1e-6) == inf


def test_the_estimate_is_about_right() -> None:
    """Halfway through a plain fit, what is said is what comes, within a third of it."""
    path = EM(mixture, acceleration=None).fit(points()).path
    half = len(path) // 2
    seen = tuple(Seen(k, level, float(k)) for k, level in enumerate(path[: half + 1]))
    steps = int(re.findall(r"~(\d+) steps", said(seen, 1e-8, 10_000))[0])
    assert abs(steps - (len(path) - 1 - half)) < (len(path) - half) / 3


@pytest.mark.parametrize("name", FIT)
def test_every_fit_says_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever makes the steps; and the fit is the one without a bar."""
    plain = EM(mixture, **FIT[name]).fit(points())
    pyro.clear_param_store()
    shown = EM(mixture, progress=True, **FIT[name]).fit(points())
    text = capsys.readouterr().err
    assert shown.path == plain.path
    assert "objective -" in text
    assert max(len(line) for line in re.split(r"[\r\n]", text)) < 80
    if name in ("plain", "all steps"):
        assert re.search(r"to go .+ nats, ~\d+ steps, [\d.e-]+ s", text)
