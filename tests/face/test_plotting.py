"""What is drawn equals the numbers: line data, bar heights, the axes of ellipses."""

import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from oracles.tolerances import IDENTITY

from em_pyro import EM, ParameterError, plotting
from em_pyro.plotting import mixtures
from em_pyro.plotting.canvas import BARS

HISTORY = [
    {"weights": [0.5, 0.5], "loc": [-1.0, 1.0], "scale": [2.0, 2.0]},
    {"weights": [0.4, 0.6], "loc": [-1.5, 1.5], "scale": [1.5, 1.0]},
    {"weights": [0.3, 0.7], "loc": [-2.0, 2.0], "scale": [1.0, 0.5]},
]
X = np.linspace(-4.0, 3.0, 30)


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    """Draw into memory, and leave no figure behind."""
    import matplotlib.pyplot as plt

    before = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


@pytest.fixture
def ax() -> Axes:
    """Axes of a figure that pyplot does not know."""
    return Figure().add_subplot()


def fitted(path: list[float]) -> Any:
    """Stand in for a fit of which only the path is drawn."""
    return SimpleNamespace(path=path)


def drawn(ax: Axes, label: str) -> np.ndarray:
    """Return the heights of the line that the legend calls `label`."""
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.asarray(line.get_ydata())


def curves(ax: Axes) -> list[Any]:
    """Return the solid curves: neither the ticks of the data nor the dashed sum."""
    return [line for line in ax.lines if line.get_linestyle() == "-" and line.get_marker() in ("None", "")]


def normal(x: np.ndarray, loc: float, scale: float) -> np.ndarray:
    """Return the normal density by torch, which the plots do not use."""
    return torch.distributions.Normal(loc, scale).log_prob(torch.from_numpy(x)).exp().numpy()


def test_intervals(ax: Axes) -> None:
    """Ends and points are those of the table; what has no standard error is an open point that says why."""
    import pyro
    import pyro.distributions as dist

    from em_pyro import EM

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


def test_objective_path(ax: Axes) -> None:
    """The line is the path of the fit, the start at step zero."""
    path = [-12.0, -10.5, -10.25, -10.0]
    assert plotting.objective_path(fitted(path), ax) is ax
    (line,) = ax.lines
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert list(line.get_ydata()) == path


def test_mixture_curves(ax: Axes) -> None:
    """The last curves are the weighted densities of the last iteration, and the dashed one their sum."""
    plotting.mixture_curves(X, HISTORY, ax)
    total = np.zeros(400)
    for k in range(2):
        grid = np.asarray(next(line for line in ax.lines if line.get_label() == f"component {k}").get_xdata())
        last = {name: value[k] for name, value in HISTORY[-1].items()}
        expected = last["weights"] * normal(grid, last["loc"], last["scale"])
        np.testing.assert_allclose(drawn(ax, f"component {k}"), expected, rtol=IDENTITY, atol=IDENTITY)
        total += expected
    np.testing.assert_allclose(drawn(ax, "mixture"), total, rtol=IDENTITY, atol=IDENTITY)


def test_opacity(ax: Axes) -> None:
    """Later iterations are more opaque, and the last one is fully so."""
    plotting.mixture_curves(X, HISTORY, ax)
    opacities = [line.get_alpha() for line in curves(ax)]
    assert len(opacities) == 2 * len(HISTORY)
    assert opacities == sorted(opacities)
    assert opacities[-1] == 1


def test_data_of_mixture_curves(ax: Axes) -> None:
    """The histogram is a density, and the ticks are the data."""
    plotting.mixture_curves(torch.from_numpy(X), HISTORY, ax)
    bars = cast(Any, ax.patches)
    assert math.isclose(sum(bar.get_width() * bar.get_height() for bar in bars), 1)
    (ticks,) = [line for line in ax.lines if line.get_marker() == "|"]
    assert list(ticks.get_xdata()) == list(X)


def test_long_history(ax: Axes) -> None:
    """Of a long history both ends are drawn, and the early iterations closer together."""
    history = [{"loc": [float(step), 1000.0], "scale": 1.0} for step in range(500)]
    plotting.mixture_curves(X, history, ax)
    first_component = curves(ax)[::2]
    assert 10 < len(first_component) <= mixtures.CURVES
    weighted = 0.5 * normal(np.asarray(first_component[0].get_xdata()), 0.0, 1.0)  # equal weights, as none are given
    np.testing.assert_allclose(first_component[0].get_ydata(), weighted, rtol=IDENTITY, atol=IDENTITY)
    steps = mixtures._thinned(500)
    assert steps[:3] == [0, 1, 2] or steps[:2] == [0, 1]
    assert steps[-1] == 499
    assert mixtures._thinned(7) == list(range(7))


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
def test_ellipses(ax: Axes, angle: float) -> None:
    """The axes are those of the covariance: its quadratic form has one value all along the rim."""
    sds = np.array([0.5, 2.0])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag(sds**2) @ turn.T
    x, means = np.random.default_rng(0).normal(size=(20, 2)), np.array([[0.0, 1.0], [3.0, -1.0]])
    plotting.ellipses(x, np.full((20, 2), 0.5), means, covariance, ax, levels=(0.5, 0.9))
    shapes = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(shapes) == 4
    inverse = np.linalg.inv(covariance)
    for shape, (centre, level) in zip(shapes, [(c, p) for c in means for p in (0.5, 0.9)], strict=True):
        np.testing.assert_allclose(shape.get_center(), centre)
        # chi-square with two degrees of freedom is exponential with mean two: its quantile needs no table
        radius = math.sqrt(-2 * math.log(1 - level))
        widths = sorted([shape.get_width(), shape.get_height()])
        np.testing.assert_allclose(widths, 2 * radius * sds, rtol=IDENTITY)
        rim = shape.get_patch_transform().transform(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])) - centre
        np.testing.assert_allclose(np.einsum("ni,ij,nj->n", rim, inverse, rim), radius**2, rtol=IDENTITY)


def test_ellipses_need_a_plane(ax: Axes) -> None:
    """Points or means of three coordinates are refused."""
    for x, means in ((torch.eye(3), torch.zeros(1, 2)), (torch.eye(3, 2), torch.zeros(1, 3))):
        with pytest.raises(ValueError, match="Choose two coordinates"):
            plotting.ellipses(x, torch.ones(3, 1), means, torch.eye(2), ax)


def test_levels(ax: Axes) -> None:
    """An ellipse holds the share of a large sample that its level says."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.4]])
    x = torch.randn(20_000, 2, generator=generator) @ factor.T
    plotting.ellipses(x, torch.ones(len(x), 1), torch.zeros(1, 2), (factor @ factor.T)[None], ax, levels=(0.5, 0.95))
    for shape, level in zip(ax.patches, (0.5, 0.95), strict=True):
        inside = np.hypot(*shape.get_patch_transform().inverted().transform(x.numpy()).T) < 1
        assert abs(inside.mean() - level) < 5 * math.sqrt(level * (1 - level) / len(x))  # five standard errors


def test_colours_of_points(ax: Axes) -> None:
    """A point has the colours of the components, mixed by its responsibilities."""
    gamma = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    plotting.ellipses(torch.eye(3, 2), gamma, torch.zeros(2, 2), torch.eye(2), ax)
    colours = cast(Any, ax.collections[0]).get_facecolors()[:, :3]
    blue, vermillion = (np.array(to_rgb(colour)) for colour in plotting.COLOURS[:2])
    np.testing.assert_allclose(colours, [blue, vermillion, 0.25 * blue + 0.75 * vermillion], rtol=IDENTITY)


@pytest.mark.parametrize("n", [5, 60])
def test_coin_weights(ax: Axes, n: int) -> None:
    """The bars of a sequence are its responsibilities, stacked; many sequences are sorted by their share of heads."""
    gamma = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    heads = torch.arange(n).flip(0)
    plotting.coin_weights(gamma, heads, n, ax)
    order = range(n) if n <= BARS else reversed(range(n))
    bars = cast(Any, ax.patches)
    for place, row in enumerate(order):
        stack = [bars[k * n + place] for k in range(3)]
        np.testing.assert_allclose([bar.get_height() for bar in stack], gamma[row], rtol=IDENTITY)
        np.testing.assert_allclose([bar.get_y() for bar in stack[1:]], gamma[row].cumsum(0)[:2], rtol=IDENTITY)
        assert stack[0].get_y() == 0
        assert [to_hex(bar.get_facecolor()).upper() for bar in stack] == list(plotting.COLOURS[:3])
    if n <= BARS:
        assert [text.get_text() for text in ax.get_xticklabels()] == [f"{h}/{n}" for h in heads.tolist()]


def swept(values: list[int], variants: tuple[str | None, ...] = (None,)) -> Any:
    """Stand in for a selection: criteria by value and variant."""
    found = []
    for k, value in enumerate(values):
        for j, variant in enumerate(variants):
            numbers = {"aic": 10.0 - k + j, "bic": 12.0 - 2 * k * (3 - k) + j, "icl": 20.0 + k + j}
            one = SimpleNamespace(value=value, variant=variant, is_maximum=value != 9, is_sliver=value == 3)
            one.key = value if variant is None else (value, variant)
            one.score = lambda criterion, numbers=numbers: numbers[criterion]
            found.append(one)
    best = min((one for one in found if one.is_maximum), key=lambda one: one.score("bic"))
    return SimpleNamespace(candidates=found, criterion="bic", best_value=best.key)


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


def test_labels() -> None:
    """Every picture labels its axes, and makes its own where none are given."""
    pictures = [
        plotting.objective_path(fitted([-2.0, -1.0])),
        plotting.mixture_curves(X, HISTORY),
        plotting.ellipses(torch.eye(3, 2), torch.ones(3, 1), torch.zeros(1, 2), torch.eye(2)),
        plotting.coin_weights(torch.ones(3, 1), torch.ones(3), torch.full((3,), 4)),
        plotting.criteria(swept([1, 2])),
    ]
    assert len({id(ax.figure) for ax in pictures}) == 5
    for ax in pictures:
        assert ax.get_xlabel()
        assert ax.get_ylabel()


def test_palette() -> None:
    """The colours are those that Okabe and Ito print."""
    assert len(set(plotting.COLOURS)) == len(plotting.COLOURS)
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in plotting.COLOURS)
    printed = {(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0)}
    assert {tuple(round(255 * part) for part in to_rgb(colour)) for colour in plotting.COLOURS} == printed


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
