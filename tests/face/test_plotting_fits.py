"""Pictures of fits: the path, intervals, criteria and the states of chains are the numbers that the fits have."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from oracles.pictures import drawn, fitted, swept
from oracles.tolerances import IDENTITY
from programs.loops import mixture, points

from em_pyro import EM, ParameterError, plotting

pytestmark = pytest.mark.usefixtures("no_window")


def test_nats_to_go(ax: Axes) -> None:
    """The line is what is left until the end of the path and the gap there, on a log axis, the start at step zero."""
    assert plotting.objective_path(fitted([-12.0, -10.5, -10.25, -10.0], 0.125), ax) is ax
    (line,) = ax.lines
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert list(line.get_ydata()) == [2.125, 0.625, 0.375, 0.125]
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "nats to go")


def test_nats_that_are_rounding(ax: Axes) -> None:
    """What is no more than rounding is not drawn, nor where the objective is not known; a gap may be unknown, too."""
    plotting.objective_path(fitted([-np.inf, -1002.0, -1001.0, -1000.0 - 1e-13, -1000.0], np.inf), ax)
    heights = np.asarray(ax.lines[0].get_ydata())
    np.testing.assert_array_equal(heights, [np.nan, 2.0, 1.0, np.nan, np.nan])


def test_a_rate_is_a_line(ax: Axes) -> None:
    """Of a fit by plain EM the last nats lie on a line, and with its gap the last point does, too."""
    found = EM(mixture, acceleration=None).fit(points())
    plotting.objective_path(found, ax)
    nats = np.log(np.asarray(ax.lines[0].get_ydata())[-8:])
    assert np.ptp(np.diff(nats)) < 0.1 * abs(np.diff(nats).mean())


def test_objective_path(ax: Axes) -> None:
    """The objective itself, on a linear axis."""
    path = [-12.0, -10.5, -10.25, -10.0]
    plotting.objective_path(fitted(path), ax, log=False)
    assert list(ax.lines[0].get_ydata()) == path
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "objective (nats)")


def test_intervals(ax: Axes) -> None:
    """Ends and points are those of the table; what has no standard error is an open point that says why."""

    def model(y: torch.Tensor) -> None:
        p = pyro.param("p", torch.full((2,), 0.4), constraint=torch.distributions.constraints.unit_interval)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(p[torch.arange(len(y)) % 2]), obs=y)

    with pyro.get_param_store().scope():
        found = EM(model).fit((torch.arange(24) % 4 == 1).double()).information()
    assert plotting.intervals(found, "p", level=0.9, ax=ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["p[0]", "p[1]"]
    edge, line, point = ax.lines
    assert (edge.get_xdata(), edge.get_markerfacecolor()) == (pytest.approx([0.0]), "white")
    assert np.asarray(line.get_xdata()) == pytest.approx([float(end[1]) for end in found.interval("p", 0.9)], IDENTITY)
    assert np.asarray(point.get_xdata()) == pytest.approx([0.5])
    assert "boundary" in ax.texts[0].get_text()
    with pytest.raises(ParameterError, match="nothing"):
        plotting.intervals(found, "nothing")


def test_criteria(ax: Axes) -> None:
    """A line a criterion over the values, those that are no maximum left out; a ring around the best."""
    selection = swept([1, 2, 3, 9])
    assert plotting.criteria(selection, ax) is ax
    for name in ("AIC", "BIC", "ICL"):
        np.testing.assert_allclose(drawn(ax, name), [one.score(name.lower()) for one in selection.candidates[:3]])
    (ring,) = [line for line in ax.lines if line.get_label() == "best"]
    assert float(np.asarray(ring.get_xdata()).item()) == [1, 2, 3, 9].index(selection.best_value)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "3", "9"]
    open_ones = [line for line in ax.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "white"]
    assert len(open_ones) == 3


def test_criteria_of_variants(ax: Axes) -> None:
    """A line a variant, of the criterion of the selection."""
    selection = swept([1, 2, 3], ("VVV", "EEE"))
    plotting.criteria(selection, ax)
    for j, variant in enumerate(("VVV", "EEE")):
        np.testing.assert_allclose(drawn(ax, variant), [one.score("bic") for one in selection.candidates[j::2]])
    assert "BIC" in ax.get_ylabel()


def chain(y: torch.Tensor, *, hidden: bool) -> None:
    """Follow three states through two sequences, as latents or hidden in a site."""
    table = torch.arange(9.0, dtype=torch.float64).reshape(3, 3).cos().softmax(-1)
    loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64))
    with pyro.plate("sequences", len(y)):
        if hidden:
            law = dist.DiscreteHMM(torch.zeros(3, dtype=torch.float64), table.log(), dist.Normal(loc, 1.0))
            pyro.sample("y", law, obs=y)
            return
        z = torch.tensor(0)
        for t in pyro.markov(range(y.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(table[z]))
            pyro.sample(f"y_{t}", dist.Normal(loc[z], 1.0), obs=y[:, t])


@pytest.mark.parametrize("hidden", [True, False])
def test_states(ax: Axes, hidden: bool) -> None:  # noqa: FBT001
    """State `k` fills what its probability is, above the states before it."""
    law = EM(chain).posterior(torch.arange(10.0, dtype=torch.float64).reshape(2, 5), hidden=hidden)
    plotting.states(law, sequence=1, ax=ax)
    shares = law.marginal("y")[1] if hidden else torch.stack([law.marginal(f"z_{t}")[1] for t in range(5)])
    tops = shares.cumsum(-1)
    assert len(ax.collections) == 3
    for k, area in enumerate(ax.collections):
        heights = area.get_paths()[0].vertices[:, 1]
        assert abs(heights.max() - float(tops[:, k].max())) < IDENTITY
        assert area.get_label() == f"state {k}"
        assert to_hex(area.get_facecolor()[0]).upper() == plotting.COLOURS[k]
    with pytest.raises(ParameterError, match="one of 2 sequences, got 2"):
        plotting.states(law, sequence=2, ax=ax)


def test_states_of_one_chain_of_several(ax: Axes) -> None:
    """Where there are others, the steps are named, and so many are drawn."""

    def model(y: torch.Tensor) -> None:
        kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.5)))
        z = torch.tensor(0)
        for t in range(3):
            z = pyro.sample(
                f"z_{t}", dist.Categorical(torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])[z])
            )
            pyro.sample(f"y_{t}", dist.Normal(pyro.param("step", torch.tensor(1.0)) * z + kind, 1.0), obs=y[t])

    law = EM(model).posterior(torch.tensor([0.1, 1.0, 2.0]))
    with pytest.raises(ParameterError, match="expected latents of one kind, the steps of a chain, got"):
        plotting.states(law, ax=ax)
    plotting.states(law, ["z_1", "z_2"], ax=ax)
    assert len(ax.collections) == 3
    assert ax.get_xlim() == (0.0, 1.0)


@pytest.mark.parametrize("name", ["intervals", "criteria", "states", "objective_path"])
def test_what_is_no_answer_of_that_kind(name: str) -> None:
    """It is said what is drawn, and what was given in its place."""
    draw: Callable[[Any], Any] = getattr(plotting, name)
    with pytest.raises(ParameterError, match=f"{name}: expected .* got dict"):
        draw({})
