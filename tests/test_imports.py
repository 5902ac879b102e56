"""The house: imports run one way, from the floors above to those below, held by looking at the source."""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = (
    "errors",
    "program analytic quadrature options",
    "families recording",
    "reading",
    "e_step",
    "m_step posterior",
    "fit",
    "em after",
    "__init__ plotting models",
    "compare",
    "cli",
    "__main__",
)
"""From the ground up, rooms and single files by their names: a room imports from the floors below its own."""

ALONE: Mapping[str, str] = {"analytic": "", "models": "quadrature", "quadrature": "errors"}
"""Rooms and files that promise to know no more of the package than this, whatever lies below them."""

PYRO_INTERNALS: Mapping[str, str] = {
    "pyro.poutine.": "program",
    "pyro.ops.": "program",
}
"""Modules of Pyro beneath its public face, and the room that may import from them."""

LATE = frozenset({"matplotlib", "numba", "sklearn", "statsmodels"})
"""What is imported only inside functions, where it is used."""


class Import(NamedTuple):
    """One imported module: its absolute name, its line, and whether it is imported when the importer is."""

    name: str
    line: int
    early: bool


def sources() -> dict[str, Path]:
    """Return the file of every module of the package, by its absolute name; `models/` is `em_pyro.models`."""
    found = {}
    for folder, package in (("em_pyro", "em_pyro"), ("models", "em_pyro.models")):
        for file in (ROOT / folder).rglob("*.py"):
            parts = [package, *file.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


SOURCES = sources()


def imports(module: str, text: str, modules: frozenset[str] = frozenset(SOURCES)) -> Iterator[Import]:
    """Yield what a module imports.

    Args:
        module: its absolute name.
        text: its source.
        modules: names that, imported from a package, are modules and not values.
    """
    tree = ast.parse(text)
    is_package = SOURCES.get(module, Path()).name == "__init__.py"
    package = module.split(".") if is_package else module.split(".")[:-1]
    late = {id(node) for scope in ast.walk(tree) if _is_late(scope) for node in ast.walk(scope)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            deeper = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in deeper]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) not in late)


def _is_late(scope: ast.AST) -> bool:
    """Whether what stands in `scope` runs later, or for type checkers alone."""
    if isinstance(scope, ast.If):
        return isinstance(scope.test, ast.Name) and scope.test.id == "TYPE_CHECKING"
    return isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef))


def room(module: str) -> str:
    """Return the room of a module of ours, or the name of a file that stands in none."""
    return [*module.split(".")[1:], "__init__"][0]


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
        if early and name.split(".")[0] in LATE:
            wrong.append(f"{where} belongs inside the function that uses it")
        if own == "analytic" and name.split(".")[0] not in {"numpy", "em_pyro", *sys.stdlib_module_names}:
            wrong.append(f"{where} is more than NumPy")
    return wrong


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_arrows(module: str) -> None:
    """Every import of every module is one that the tables allow."""
    assert faults(module, SOURCES[module].read_text(encoding="utf-8")) == []


def test_floors() -> None:
    """The floors name each room once, and none that is not there."""
    names = [name for rooms in FLOORS for name in rooms.split()]
    assert sorted(names) == sorted({room(module) for module in SOURCES})
    assert set(ALONE) <= set(names)


def test_no_circle() -> None:
    """No module imports itself through others, inside the packages either."""
    arrows = {
        module: {found.name for found in imports(module, path.read_text(encoding="utf-8"))} & set(SOURCES)
        for module, path in SOURCES.items()
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
        ("em_pyro.models.coins", "from ..errors import EMError", "promises"),
        ("em_pyro.analytic.path", "import torch", "NumPy"),
        ("em_pyro.em", "from pyro.poutine.messenger import Messenger", "left to program"),
        ("em_pyro.em", "import pyro.ops.contract", "left to program"),
        ("em_pyro.plotting", "import matplotlib.pyplot as plt", "inside the function"),
    ],
)
def test_fault_is_noticed(module: str, text: str, complaint: str) -> None:
    """Each rule complains of an import that breaks it, and not of a harmless one."""
    assert any(complaint in fault for fault in faults(module, text))
    assert faults(module, "import math\nfrom collections.abc import Mapping") == []
