"""The other pages: code that runs and prints what they say, and plans of the zoo that are up to date."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from programs.zoo import GAUSSIAN, ZOO

import em_pyro

ROOT = Path(__file__).parents[2]
PAGES: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "pages.py"))
NEW_MODEL, MISSING_DATA = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("new_model", "missing_data")
)
NEEDS = {"your_data": "pandas", "arviz": "arviz", "scikit_learn": "sklearn"}
"""Optional dependencies: a page is skipped where its own is missing, and for no other reason."""

MODELS: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "make_models_readme.py"))
ZOO_PAGE = (ROOT / "models" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES["PAGES"][1:], ids=lambda page: page.stem)
def test_a_page_prints_what_it_says(page: Path) -> None:
    """Every block of Python runs, in order; `python docs/pages.py` puts fresh output into the page."""
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem])
    _, pairs = PAGES["run"](page.read_text(encoding="utf-8"))
    assert pairs
    for said, printed in pairs:
        assert PAGES["masked"](printed) == PAGES["masked"](said)


def test_every_public_name_has_its_place() -> None:
    """The page of the reference names all that `em_pyro` has, and nothing else."""
    page = (ROOT / "docs" / "reference" / "em_pyro.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)
    assert sorted([*shown, "__version__"]) == sorted(em_pyro.__all__)


def test_every_page_is_in_the_contents() -> None:
    """The first page of the site names all others, under a heading."""
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= set(contents.splitlines())


def test_missing_data_names_every_kind() -> None:
    """Every row of the first table has a section with code."""
    rows = re.findall(r"^\| (?!what|---)", MISSING_DATA, re.MULTILINE)
    sections = MISSING_DATA.split("\n## ")[1:-1]  # the last are the references
    assert len(rows) == len(sections) == 6
    assert all("```python" in section for section in sections)


def test_new_model_shows_three_cases() -> None:
    """One plan is closed form throughout, one has one torch parameter, one goes from torch to closed form."""
    printed = re.findall(r"```text\n(parameter .*?)```", NEW_MODEL, re.DOTALL)
    plans = [re.findall(r"  (closed form|torch)  ", block) for block in printed]
    assert [plan.count("torch") for plan in plans[:4]] == [0, 1, 1, 0]


@pytest.mark.parametrize("name", [*ZOO, *GAUSSIAN])
def test_plans_of_the_zoo_are_up_to_date(name: str) -> None:
    """If not: `python docs/make_models_readme.py`."""
    entry = MODELS["entry"](name)
    assert entry.plan == MODELS["said"](name)
    (row,) = [line for line in ZOO_PAGE.splitlines() if line.startswith(f"| [{name}]")]
    closed, rest = row.split(" | ")[2:4]
    for parameter, how in entry.solved.items():
        assert f"`{parameter}`" in (rest if how == "torch" else closed)


def test_every_model_has_data_and_references() -> None:
    """The docstring of each file says where its data come from and which papers to read."""
    for part in ZOO_PAGE.split("\n### ")[1:]:
        assert re.search(r"^Data: \S", part, re.MULTILINE), part[:40]
        assert re.search(r"^References:\n\n- \w", part, re.MULTILINE), part[:40]


def test_no_file_is_forgotten() -> None:
    """Every model file has its part, and the page tells of no other."""
    parts = set(re.findall(r"^### \[(\w+\.py)\]", ZOO_PAGE, re.MULTILINE))
    tools = {"__init__.py", "seeded.py", "start.py", "chains.py"}
    assert parts == {file.name for file in (ROOT / "models").glob("*.py")} - tools
