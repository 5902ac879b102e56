"""Pictures of mixtures: curves are weighted densities, the axes of ellipses those of the covariances."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse
from oracles.pictures import HISTORY, X, drawn
from oracles.tolerances import IDENTITY

from em_pyro import plotting
from em_pyro.plotting import mixtures

pytestmark = pytest.mark.usefixtures("no_window")


def curves(ax: Axes) -> list[Any]:
    """Return the solid curves: neither the ticks of the data nor the dashed sum."""
    return [line for line in ax.lines if line.get_linestyle() == "-" and line.get_marker() in ("None", "")]


def normal(x: np.ndarray, loc: float, scale: float) -> np.ndarray:
    """Return the normal density by torch, which the plots do not use."""
    return torch.distributions.Normal(loc, scale).log_prob(torch.from_numpy(x)).exp().numpy()


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
