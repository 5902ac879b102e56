"""Pictures: axes are labelled, colours are those of print, and the bars of coins are their weights."""

import re
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from oracles.pictures import HISTORY, X, fitted, swept
from oracles.tolerances import IDENTITY

from em_pyro import plotting
from em_pyro.plotting.canvas import BARS

pytestmark = pytest.mark.usefixtures("no_window")


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
