"""The house: how long files and functions are, who may ask for a kind, and who may call what; seen in the source."""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from oracles.source import ROOT, SOURCES, asked_kinds, branches, calls, classes, functions, room, texts

LINES, SPAN, BRANCHES, FILES, FLAT = 300, 60, 15, 15, 8
"""At most: lines of a file, lines of a function, its branches, files of a folder, files that stand in no room."""

KINDS = ("e_step", "families", "m_step")
"""Rooms whose classes are rows of a table (units, steps of a schedule, families, solvers): nobody asks which it has."""

TABLES: frozenset[str] = frozenset({"e_step.units"})
"""Files that own such a table and may ask for what is in it; every file may ask for the kinds that it defines."""

CALLERS: Mapping[str, str] = {
    "log_factors": "e_step posterior",
    "sums": "e_step",
    "natural": "e_step families posterior",
    "expect": "e_step posterior fit.problem fit.rows.held fit.rows.stream fit.rows.slices fit.rows.processes",
}
"""What evaluates a unit, or runs the engine over data, and the rooms and files that may call it."""

SYMBOLIC = ("broadcast_shapes", "unravel_index")
"""Functions of torch that import its symbolic algebra, which takes longer than most fits do."""

OPTIONAL = ("arviz", "hmmlearn", "numba", "pomegranate", "scipy", "sklearn", "statsmodels")
"""What a desk may have and the clone of a stranger has not: tests ask for it by `pytest.importorskip`."""

SLOW = "@dataclass(frozen=True, eq=False)"
"""What `records.frozen` is in place of, outside the leaves that import nothing of ours."""

ELSEWHERE: Mapping[str, str] = {"natural": "family", "expect": "problem"}
"""On what anybody may call it: a family's own parameters, and the one door through which data are run over."""


def kinds(sources: Mapping[str, str]) -> dict[str, str]:
    """Return the classes that are kinds, each with the module that defines it."""
    found = {name: module for module, text in sources.items() if room(module) in KINDS for name in classes(text)}
    return {name: module for name, module in found.items() if not name.endswith(("Error", "Refused", "Unbounded"))}


def offences(module: str, text: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each rule that a module breaks, and where: the module, and the function or class in question."""
    where = module.removeprefix("em_pyro.")
    own = {where, room(module)}
    if text.count("\n") > LINES:
        yield "lines", where
    if SLOW in text and room(module) not in ("analytic", "models", "quadrature", "records"):
        yield "frozen", where
    for name, function in functions(text):
        if (function.end_lineno or 0) - function.lineno + 1 > SPAN:
            yield "span", f"{where}:{name}"
        if branches(function) > BRANCHES:
            yield "branches", f"{where}:{name}"
    for kind, _ in asked_kinds(text, known):
        if known[kind] != module and where not in TABLES:
            yield "kind", f"{where}:{kind}"
    for call in calls(text):
        if call.method == "__setattr__" and call.on == "object":
            yield "record", where
        if call.method in SYMBOLIC and call.on == "torch":
            yield "symbolic", f"{where}:{call.method}"
        if call.method in CALLERS and not own & set(CALLERS[call.method].split()):
            if call.on != ELSEWHERE.get(call.method):
                yield "call", f"{where}:{call.method}"


def crowded(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the folders that hold more files than they may, of paths below the repository by module."""
    count = Counter(path.rpartition("/")[0] for path in names.values())
    for folder, number in count.items():
        if folder.split("/")[0] == "em_pyro" and number > (FLAT if folder == "em_pyro" else FILES):
            yield "files", folder


def long_tests() -> Iterator[tuple[str, str]]:
    """Yield the test files that are longer than a file may be."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.read_text(encoding="utf-8").count("\n") > LINES:
            yield "lines", path.relative_to(ROOT).as_posix()


def needed(text: str) -> set[str]:
    """Return the optional libraries that a test file imports without asking whether they are there."""
    asked = set(re.findall(r"importorskip\(.([a-z]+)", text))
    return {name for name in OPTIONAL if re.search(rf"^(from|import) {name}\b", text, re.MULTILINE)} - asked


def bare_tests() -> Iterator[tuple[str, str]]:
    """Yield the test files that cannot be read in the clone of a stranger."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in needed(path.read_text(encoding="utf-8")):
            yield "needs", f"{path.relative_to(ROOT).as_posix()}:{name}"


def found() -> set[tuple[str, str]]:
    """Return every offence in the package."""
    sources = texts()
    known = kinds(sources)
    paths = {module: path.relative_to(ROOT).as_posix() for module, path in SOURCES.items()}
    return {
        *(pair for module, text in sources.items() for pair in offences(module, text, known)),
        *crowded(paths),
        *long_tests(),
        *bare_tests(),
    }


def test_house() -> None:
    """Every file keeps every rule."""
    assert sorted(found()) == []


def test_tables_name_what_is_there() -> None:
    """Rules that name nothing hold nothing."""
    assert {room(module) for module in SOURCES} >= set(KINDS)
    assert {"Stack", "Normal", "Counts"} <= set(kinds(texts()))


BRANCHED = "def f(x):\n" + "".join(f"    if x == {n}:\n        return {n}\n" for n in range(BRANCHES + 1))

KNOWN = {"Stack": "em_pyro.e_step.several.stack", "Sum": "em_pyro.e_step.contraction.schedule"}


@pytest.mark.parametrize(
    ("module", "text", "offence"),
    [
        ("em", "\n" * (LINES + 1), ("lines", "em")),
        ("em", "class A:\n    def f(self):\n        pass\n" + "        pass\n" * SPAN, ("span", "em:A.f")),
        ("em", BRANCHED, ("branches", "em:f")),
        ("em", "def f(x):\n    return " + " or ".join("x" * (BRANCHES + 2)), ("branches", "em:f")),
        ("em", "def f(x):\n    return [" + ", ".join(["[y for y in x if y]"] * 16) + "]", ("branches", "em:f")),
        ("fit.loop", "isinstance(unit, Stack)", ("kind", "fit.loop:Stack")),
        ("fit.loop", "isinstance(unit, (int, stack.Stack))", ("kind", "fit.loop:Stack")),
        ("fit.loop", "isinstance(unit, int | Stack)", ("kind", "fit.loop:Stack")),
        ("fit.loop", "type(unit) is Stack", ("kind", "fit.loop:Stack")),
        ("fit.loop", "match unit:\n    case Stack():\n        pass", ("kind", "fit.loop:Stack")),
        ("e_step.engine", "isinstance(step, Sum)", ("kind", "e_step.engine:Sum")),
        ("fit.loop", f"{SLOW}\nclass A:\n    pass", ("frozen", "fit.loop")),
        ("fit.loop", "object.__setattr__(engine, 'kept', 1)", ("record", "fit.loop")),
        ("fit.scales", "torch.unravel_index(rows, shape)", ("symbolic", "fit.scales:unravel_index")),
        ("fit.loop", "self.engine.expect(bound)", ("call", "fit.loop:expect")),
        ("em", "suited(here.engine, params).expect(bound)", ("call", "em:expect")),
        ("fit.loop", "unit.log_factors(natural, chunk)", ("call", "fit.loop:log_factors")),
        ("posterior.posterior", "unit.sums(shares, memo, about, chunk)", ("call", "posterior.posterior:sums")),
        ("m_step.joint", "unit.natural(bound)", ("call", "m_step.joint:natural")),
    ],
)
def test_offence_is_noticed(module: str, text: str, offence: tuple[str, str]) -> None:
    """Each rule complains of what breaks it, and not of a harmless neighbour."""
    assert offence in set(offences(f"em_pyro.{module}", text, KNOWN))
    harmless = "isinstance(unit, int)\nfamily.natural(arguments)\nproblem.expect(bound)\nsuper().__setattr__('a', 1)"
    assert set(offences(f"em_pyro.{module}", harmless, KNOWN)) == set()


def test_crowds_are_noticed() -> None:
    """A folder with a file too many, and a roof with one too many."""
    for folder, most in (("em_pyro/fit", FILES), ("em_pyro", FLAT)):
        full = {f"m{n}": f"{folder}/m{n}.py" for n in range(most)}
        assert set(crowded(full)) == set()
        assert set(crowded({**full, "more": f"{folder}/more.py"})) == {("files", folder)}


def test_long_test_files_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test file may have as many lines as a file of the package, and not one more."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tests" / "room").mkdir(parents=True)
    (tmp_path / "tests" / "room" / "test_full.py").write_text("\n" * LINES)
    assert list(long_tests()) == []
    (tmp_path / "tests" / "room" / "test_long.py").write_text("\n" * (LINES + 1))
    assert list(long_tests()) == [("lines", "tests/room/test_long.py")]


def test_what_a_test_needs_is_asked_for() -> None:
    """A library that is optional may be missing; one in a name or in words is none."""
    assert needed("from scipy.optimize import minimize\n") == {"scipy"}
    assert (
        needed('pytest.importorskip("sklearn")\nfrom sklearn.base import clone\nimport scipyish  # import scipy')
        == set()
    )


def test_kinds_may_be_asked_at_home() -> None:
    """A table asks for its own kinds, and a file for those that it defines."""
    home = "e_step.contraction.schedule"
    for module, text in (("e_step.units", "isinstance(unit, Stack)"), (home, "isinstance(step, Sum)")):
        assert set(offences(f"em_pyro.{module}", text, KNOWN)) == set()
