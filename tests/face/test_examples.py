"""Every example has its place in the gallery, its claims, its picture, and the names that it imports.

`make docs` runs all of them, and `docs/test_site.py` looks at what came out. Two run in the tests: the shortest through
the gallery, and that of several processes in `tests/fit/test_processes.py`.
"""

import ast
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NEEDS = {"image_segmentation": "sklearn", "anomalies": "sklearn", "market_regimes": "statsmodels", "batches": "arviz"}
"""Optional dependencies, by example."""

LARGEST = 150_000
"""Bytes of a picture in the repository."""


GALLERY: dict[str, Any] = runpy.run_path(str(EXAMPLES / "gallery.py"))
LISTED: tuple[str, ...] = GALLERY["EXAMPLES"]
"""The names of the examples, in the order of the gallery."""


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    """Draw where there is no screen."""
    before = plt.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.switch_backend(before)


WIDTH = 1200
"""Pixels of a picture: eight inches."""


def test_the_gallery_draws(tmp_path: Path) -> None:
    """A script runs to its end, where it asserts its claims, and leaves one picture that is small and wide enough."""
    GALLERY["draw"]("two_gaussians", tmp_path)
    (picture,) = tmp_path.iterdir()
    assert picture.name == "two_gaussians.png"
    assert picture.stat().st_size < LARGEST
    assert plt.imread(picture).shape[1] == WIDTH


@pytest.mark.parametrize("name", LISTED)
def test_is_drawn_at_one_width(name: str) -> None:
    """An example makes one figure, eight inches wide, shows it last, and its picture in the repository is so wide."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(re.findall(r"= plt\.subplots?(?:_mosaic)?\(", text)) == text.count("figsize=(8, ") == 1
    assert text.count("plt.show()") == 1
    picture = ROOT / "docs" / "pictures" / f"{name}.png"
    assert picture.stat().st_size < LARGEST
    assert plt.imread(picture).shape[1] == WIDTH


@pytest.mark.parametrize("name", [*LISTED, "many_processes"])
def test_what_is_imported_is_there(name: str) -> None:
    """A script compiles without a warning, and every name that it takes from the package is one of the package."""
    path = EXAMPLES / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    compile(text, path, "exec")
    taken = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in taken if str(node.module).partition(".")[0] == "em_pyro"]
    assert ours
    exec(compile(ast.Module(ours, []), path, "exec"), {})  # noqa: S102 - statements of import alone


def test_every_example_is_listed() -> None:
    """Scripts, list and gallery name the same examples in the same order, and the pictures are there."""
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"gallery", "many_processes"}
    assert set(LISTED) == scripts
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\w+)\.py\]\(\1\.py\): ", page, re.MULTILINE) == list(LISTED)
    assert re.findall(r"^\[!\[.+\]\(\.\./docs/pictures/(\w+)\.png\)\]\(\1\.py\)$", page, re.MULTILINE) == list(LISTED)


@pytest.mark.parametrize("name", [*LISTED, "many_processes"])
def test_begins_with_a_question_and_ends_with_claims(name: str) -> None:
    """The first heading asks; the last cell asserts."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    first, *_, last = text.split("# %%")[1:]
    assert re.match(r' \[markdown\]\n"""# .+\n', first)
    assert "?" in first
    assert "\nassert " in last or "    assert " in last


@pytest.mark.parametrize("name", LISTED)
def test_runs_alone(name: str) -> None:
    """A script or a notebook that is downloaded needs nothing that lies beside it."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert not imported & {path.stem for path in EXAMPLES.iterdir()}


@pytest.mark.parametrize(("name", "package"), NEEDS.items())
def test_says_what_is_missing(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its optional dependency an example names the extra to install."""
    for module in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"em-pyro\[examples\]"):
        GALLERY["draw"](name, tmp_path)
    assert not list(tmp_path.iterdir())
