"""No test reads anything beside the repository: a clone has nothing there.

What is looked for is written plainly: a path made from `__file__` that climbs too high, and two dots in a string.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("*.py"))
TWO_DOTS = re.compile(r"(^|[/\\])\.\.([/\\]|$)")


def climbs(node: ast.AST, known: dict[str, int]) -> int | None:
    """Count how many folders above `__file__` an expression is; `known` has the variables, None is no such path."""
    match node:
        case ast.Name(name):
            return 0 if name == "__file__" else known.get(name)
        case ast.Call(ast.Name("Path"), [inner]) | ast.Call(ast.Attribute(inner, "resolve" | "absolute")):
            return climbs(inner, known)
        case ast.Attribute(inner, "parent") | ast.Call(ast.Attribute(_, "dirname"), [inner]):
            steps = 1
        case ast.Subscript(ast.Attribute(inner, "parents"), ast.Constant(int(above))):
            steps = above + 1
        case ast.BinOp(inner, ast.Div(), ast.Constant(str(below))):
            steps = -len(Path(below).parts)
        case _:
            return None
    height = climbs(inner, known)
    return None if height is None else height + steps


def reaches(code: str, depth: int) -> list[int]:
    """List the lines of a file that reach outside the repository, whose root is `depth` steps above the file."""
    lines, known = set(), {}
    for node in ast.walk(ast.parse(code)):  # the outer first: assignments of a module come before its functions
        height = climbs(node, known)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = climbs(node.value, known)
            if value is not None:
                known[node.targets[0].id] = value
        dots = isinstance(node, ast.Constant) and isinstance(node.value, str) and TWO_DOTS.search(node.value)
        if dots or (height or 0) > depth or (isinstance(node, ast.Attribute) and node.attr == "pardir"):
            lines.add(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize("file", FILES)
def test_nothing_outside_is_read(file: str) -> None:
    """Data that the repository may not hold are found by `EM_PYRO_GOLDEN` alone."""
    assert reaches((ROOT / file).read_text(encoding="utf-8"), len(Path(file).parts)) == []


REACHING = [
    'GOLDEN = Path(__file__).parents[2] / "shared"',
    "x = Path(__file__).resolve().parent.parent.parent",
    "ROOT = Path(__file__).parents[1]\ndef f():\n    return ROOT.parent / name",
    "ROOT = Path(__file__).parents[1]\nx = (ROOT / 'docs').parent.parent",
    "x = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))",
    "x = open('UP/UP/shared/x.json')",
    "x = f'{folder}/UP/UP/x.json'",
    "x = os.path.join(os.pardir, 'shared')",
]


@pytest.mark.parametrize("code", REACHING)
def test_reaching_outside_is_noticed(code: str) -> None:
    """Planted in a file of `tests/`, each is found in its last line."""
    assert reaches(code.replace("UP", 2 * "."), 2) == [len(code.splitlines())]


def test_reaching_inside_is_allowed() -> None:
    """The root, and what is below it; folders of other packages; an ellipsis."""
    code = """
ROOT = Path(__file__).parents[1]
page = ROOT / "docs" / "new_model.md"
here = page.parent.parent / "tests"
torch_folder = Path(torch.__file__).parents[3]
print("wait...", "1..2", "and so on ..")
"""
    assert reaches(code, 2) == []
