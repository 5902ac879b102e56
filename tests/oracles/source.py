"""The package as text: where every module is written, and what a module imports, defines and calls."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Import(NamedTuple):
    """One imported module: its absolute name, its line, and whether it is imported when the importer is."""

    name: str
    line: int
    early: bool


class Call(NamedTuple):
    """A method that is called: its name, the last name of what it is called on, and the line."""

    method: str
    on: str
    line: int


def _sources() -> dict[str, Path]:
    found = {}
    for folder, package in (("em_pyro", "em_pyro"), ("models", "em_pyro.models")):
        for file in (ROOT / folder).rglob("*.py"):
            parts = [package, *file.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


SOURCES = _sources()
"""The file of every module of the package, by its absolute name; `models/` is `em_pyro.models`."""


def texts() -> dict[str, str]:
    """Return the source of every module."""
    return {module: path.read_text(encoding="utf-8") for module, path in sorted(SOURCES.items())}


@cache
def parsed(text: str) -> ast.Module:
    """Parse a source, once."""
    return ast.parse(text)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a node, as `ast.iter_child_nodes` does in twice the time: there are a million of them."""
    for value in vars(node).values():
        if isinstance(value, ast.AST):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, ast.AST))


def walk(node: ast.AST) -> list[ast.AST]:
    """Return a node and all that stands in it, in the order of `ast.walk`."""
    found = [node]
    for one in found:
        found.extend(children(one))
    return found


@cache
def nodes(text: str) -> tuple[ast.AST, ...]:
    """Return all that stands in a source, once."""
    return tuple(walk(parsed(text)))


def room(module: str) -> str:
    """Return the room of a module of ours, or the name of a file that stands in none: `__main__` is a door of `cli`."""
    return [*module.split(".")[1:], "__init__"][0].replace("__main__", "cli")


@cache
def imports(module: str, text: str, modules: frozenset[str] = frozenset(SOURCES)) -> tuple[Import, ...]:
    """Return what a module imports.

    Args:
        module: its absolute name.
        text: its source.
        modules: names that, imported from a package, are modules and not values.
    """
    found = []
    is_package = SOURCES.get(module, Path()).name == "__init__.py"
    package = module.split(".") if is_package else module.split(".")[:-1]
    stated = [node for node in nodes(text) if isinstance(node, (ast.Import, ast.ImportFrom))]
    late = {id(node) for scope in nodes(text) if _is_late(scope) for node in walk(scope)} if stated else set()
    for node in stated:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            deeper = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in deeper]
        found += [Import(name, node.lineno, id(node) not in late) for name in names]
    return tuple(found)


def _is_late(scope: ast.AST) -> bool:
    """Whether what stands in `scope` runs later, or for type checkers alone."""
    if isinstance(scope, ast.If):
        return isinstance(scope.test, ast.Name) and scope.test.id == "TYPE_CHECKING"
    return isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef))


def functions(text: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function with its name, behind those of the classes and functions that it stands in."""

    def inside(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in children(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ".".join((*names, child.name)), child
            deeper = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            yield from inside(child, (*names, child.name) if deeper else names)

    return inside(parsed(text), ())


def branches(function: ast.AST) -> int:
    """Count the ways that part in a function, those inside it included.

    Each `if`, loop, handler, conditional expression, condition of a comprehension and case is one, and so is every
    operand of an `and` or `or` but the first.
    """
    one = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.IfExp, ast.ExceptHandler, ast.match_case)
    return sum(
        1 if isinstance(node, one)
        else len(node.ifs) if isinstance(node, ast.comprehension)
        else len(node.values) - 1 if isinstance(node, ast.BoolOp)
        else 0
        for node in walk(function)
    )  # fmt: skip


def classes(text: str) -> dict[str, tuple[str, ...]]:
    """Return the classes of a module, with the last names of their bases."""
    found = [node for node in nodes(text) if isinstance(node, ast.ClassDef)]
    return {node.name: tuple(last(base) for base in node.bases) for node in found}


def last(node: ast.AST) -> str:
    """Return the last name of an expression, `c` of `a.b.c`, `a.b.c(...)` and `a.b.c[...]`; empty if it has none."""
    while isinstance(node, (ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def calls(text: str) -> Iterator[Call]:
    """Yield the methods that a module calls."""
    for node in nodes(text):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield Call(node.func.attr, last(node.func.value), node.lineno)


def asked_kinds(text: str, kinds: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield the classes of `kinds` that a module asks for by `isinstance`, by a `case`, or by comparing types."""
    for node in nodes(text):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Call) and last(node.func) in ("isinstance", "issubclass"):
            asked = walk(node.args[1])
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Call) and last(node.left) == "type":
            asked = list(node.comparators)
        for kind in asked:
            foreign = isinstance(kind, ast.Attribute) and last(kind.value) == "dist"
            if isinstance(kind, (ast.Name, ast.Attribute)) and last(kind) in kinds and not foreign:
                yield last(kind), getattr(node, "lineno", getattr(kind, "lineno", 0))
