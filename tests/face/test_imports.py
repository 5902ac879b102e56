"""The house: imports run one way, from the floors above to those below, held by looking at the source."""

import subprocess
import sys
from collections.abc import Mapping
from graphlib import TopologicalSorter

import pytest
from oracles.source import SOURCES, imports, room, texts

FLOORS = (
    "errors records",
    "program analytic quadrature options files",
    "families recording",
    "reading",
    "e_step",
    "m_step posterior",
    "fit",
    "after",
    "em plotting models variational",
    "compare selection sklearn",
    "__init__",
    "cli",
)
"""From the ground up, rooms and single files by their names: a room imports from the floors below its own."""

ALONE: Mapping[str, str] = {"analytic": "", "models": "quadrature errors", "quadrature": "errors"}
"""Rooms and files that promise to know no more of the package than this, whatever lies below them."""

PYRO_INTERNALS: Mapping[str, str] = {
    "pyro.poutine.": "program",
    "pyro.ops.": "program",
}
"""Modules of Pyro beneath its public face, and the room that may import from them."""

DOORS: Mapping[str, str] = {"sklearn": "sklearn"}
"""Rooms that nobody imports but who has this library."""

LATE = frozenset({"arviz", "matplotlib", "numba", "pandas", "sklearn", "statsmodels", "xarray"})
"""What is imported only inside functions, where it is used."""


def floor(name: str) -> int:
    """Return the number of the floor that a room is on."""
    numbers = [number for number, rooms in enumerate(FLOORS) if name in rooms.split()]
    assert len(numbers) == 1, f'"{name}": expected it on one floor, found it on {len(numbers)}. Edit FLOORS.'
    return numbers[0]


def faults(module: str, text: str) -> list[str]:
    """Return a line for each import of a module that the tables forbid."""
    own, wrong = room(module), []
    for name, line, early in imports(module, text):
        where = f"{module}, line {line}: {name}"
        if name.split(".")[0] == "em_pyro" and room(name) != own:
            if floor(room(name)) >= floor(own):
                wrong.append(f"{where} is not below {own}")
            if own in ALONE and room(name) not in ALONE[own].split():
                wrong.append(f"{where} is more than {own} promises to know")
        for internal, allowed in PYRO_INTERNALS.items():
            if f"{name}.".startswith(internal) and own not in allowed.split():
                wrong.append(f"{where} is left to {allowed}")
        if early and name.split(".")[0] in LATE - {DOORS.get(own)}:
            wrong.append(f"{where} belongs inside the function that uses it")
        if own == "analytic" and name.split(".")[0] not in {"numpy", "em_pyro", *sys.stdlib_module_names}:
            wrong.append(f"{where} is more than NumPy")
    return wrong


def test_arrows() -> None:
    """Every import of every module is one that the tables allow."""
    assert [fault for module, text in texts().items() for fault in faults(module, text)] == []


def test_floors() -> None:
    """The floors name each room once, and none that is not there."""
    names = [name for rooms in FLOORS for name in rooms.split()]
    assert sorted(names) == sorted({room(module) for module in SOURCES})
    assert set(ALONE) <= set(names)


def test_no_circle() -> None:
    """No module imports itself through others, inside the packages either."""
    arrows = {
        module: {found.name for found in imports(module, text)} & set(SOURCES) for module, text in texts().items()
    }
    TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("em_pyro.errors", "from .program import named", "not below"),
        ("em_pyro.errors", "from .em import EM", "not below"),
        ("em_pyro.errors", "import em_pyro", "not below"),
        ("em_pyro.errors", "def f():\n    from em_pyro.m_step.plan import Plan", "not below"),
        ("em_pyro.reading.predictor", "from ..e_step.engine import Engine", "not below"),
        ("em_pyro.m_step.plan", "from ..posterior.posterior import Posterior", "not below"),
        ("em_pyro.quadrature", "from .program.named import Named", "promises"),
        ("em_pyro.models.coins", "from ..options import check_options", "promises"),
        ("em_pyro.analytic.path", "import torch", "NumPy"),
        ("em_pyro.em", "from pyro.poutine.messenger import Messenger", "left to program"),
        ("em_pyro.em", "import pyro.ops.contract", "left to program"),
        ("em_pyro.plotting.paths", "import matplotlib.pyplot as plt", "inside the function"),
    ],
)
def test_fault_is_noticed(module: str, text: str, complaint: str) -> None:
    """Each rule complains of an import that breaks it, and not of a harmless one."""
    assert any(complaint in fault for fault in faults(module, text))
    assert faults(module, "import math\nfrom collections.abc import Mapping") == []


def test_a_first_fit_imports_what_it_needs() -> None:
    """Rooms for later are imported when they are asked for, by every public name and by their own; others are none.

    Nor is what few programs have imported with the package: chains, Gaussian latents, batches, what must be recorded.

    Neither planning, nor starts, nor torch's M-steps, nor the look at the end import torch's symbolic algebra, and
    nothing imports matplotlib before something is drawn.
    """
    code = """
import sys, torch, pyro, pyro.distributions as dist, em_pyro
from torch.distributions import constraints

late = {"compare", "plotting", "selection", "variational"}
early = {name.split(".")[1] for name in sys.modules if name.startswith("em_pyro.")}
assert not early & late, early & late
rare = {"e_step.chains.chain", "e_step.gaussian.unit", "e_step.second.second", "fit.assigned.climb", "fit.rows.stream",
        "fit.rows.processes", "reading.latents.constants", "recording.record"}
assert not {f"em_pyro.{name}" for name in rare} & sys.modules.keys()
assert {*em_pyro.__all__, *late} <= set(dir(em_pyro))
assert all(getattr(em_pyro, name).__name__ == f"em_pyro.{name}" for name in late)
assert all(hasattr(em_pyro, name) for name in em_pyro.__all__)
assert not hasattr(em_pyro, "nothing")

def model(x):
    w = pyro.param("w", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    rate = pyro.sample("rate", dist.Gamma(torch.ones(2), torch.ones(2)).to_event(1))
    a, b = pyro.param("a", torch.tensor(0.1)), pyro.param("b", torch.tensor(0.2))
    with pyro.plate("rows", len(x)):
        y, z = pyro.sample("y", dist.Categorical(w)), pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Poisson(rate[y] + rate[z] * a.exp() + torch.tanh(b) ** 2), obs=x)

em_pyro.EM(model, max_steps=2, starts=2).fit(torch.arange(12.0))
assert "a" in pyro.get_param_store()
dear = [name for name in ("sympy", "torch._dynamo", "torch._inductor", "matplotlib") if name in sys.modules]
assert not dear, dear
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
