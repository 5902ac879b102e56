"""What every test starts from: float64, an empty param store, Pyro's validation on, fixed seeds, one thread.

Tests are marked by where they stand: `laws`, `pages` and `numbers`, and what is none of these is the quick run.
"""

import gc
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyro
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import tensor
from torch.distributions import constraints

from em_pyro.program.devices import seed_generators

# Small tensors gain nothing from a second thread, and lose much where another process holds its core.
torch.set_num_threads(1)


TESTS = Path(__file__).parent

PAGES = ("cli", "compare", *(f"face/test_{name}.py" for name in ("docs", "examples", "packaging", "readme")))
"""Folders and files of the tests that run pages, examples, commands and races, and build the wheel."""


LONG = (
    *(f"{room}/*" for room in ("selection", "variational")),
    *(f"after/test_{name}*" for name in ("places", "sampling_weights", "sensitivity")),
    *(f"e_step/test_{name}*" for name in ("loops", "orthogonal", "row_weights", "states_in_a_plate")),
    *(f"m_step/test_{name}*" for name in ("adam", "partial")),
    *(f"reading/test_{name}*" for name in ("computed_arguments", "non_centred", "whole_chains")),
    *(f"fit/test_{name}*" for name in ("streams", "processes", "checkpoint", "unbounded", "equal_values", "ridges")),
    *(f"fit/test_{name}*" for name in ("accelerated", "quasi_newton", "slices", "zero_spreads", "plateaus", "tiny")),
    *(f"fit/test_{name}*" for name in ("priors_of_spreads", "computed_spreads", "bounds_of_supports")),
    *(f"fit/test_{name}*" for name in ("faces", "faint_directions", "saddle")),
    "families/test_newton*", "posterior/test_observed_in_part*", "program/test_planning*",
)  # fmt: skip
"""Tests of whole fits by the dozen, and of other processes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a quick run take one case of each test."""
    parser.addoption("--once", action="store_true", help="of a test over several cases the first alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test by its folder; leave out what is not asked for."""
    for item in items:
        for mark in marks(item.path):
            item.add_marker(mark)
    if config.getoption("--once"):
        first = list({item.nodeid.partition("[")[0]: item for item in reversed(items)}.values())[::-1]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(first)])
        items[:] = first


@cache
def marks(path: Path) -> list[str]:
    """Return the marks of a file of tests."""
    where = path.relative_to(TESTS)
    found = [room for room in ("laws", "numbers") if where.parts[0] == room]
    if any(where.is_relative_to(page) for page in PAGES):
        found.append("pages")
    if any(where.match(name) for name in LONG):
        found.append("long")
    return found


def pytest_collection_finish() -> None:
    """Take what was imported and collected out of the garbage collector's rounds: a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()


def seed_everything() -> None:
    """Do what `pyro.set_rng_seed(0)` does, but for devices that nobody uses: a millisecond of every test."""
    seed_generators(0)
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def fresh_pyro() -> Iterator[None]:
    """Start each test from a clean Pyro and put the default dtype back afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.enable_validation()
    seed_everything()
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(before)


@pytest.fixture
def earlier_values() -> None:
    """A store that another run has left behind: a parameter of the models below, and one of somebody else's."""
    pyro.param("loc", tensor([-1.25, 1.5]))
    pyro.param("other", tensor([0.25]), constraint=constraints.positive)


@pytest.fixture
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
