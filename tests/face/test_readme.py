"""The first page: its code runs and prints what it says, and its tables are the library's own."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from em_pyro.fit.endings import OUTCOMES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "pages.py"))
run, masked = PAGES["run"], PAGES["masked"]


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    """Draw into memory."""
    import matplotlib.pyplot as plt

    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def test_code_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python runs, in order; `python docs/pages.py` puts fresh output into the page."""
    monkeypatch.chdir(tmp_path)
    _, pairs = run(README)
    assert len(pairs) >= 6
    for said, printed in pairs:
        assert masked(printed) == masked(said)


def test_changed_output_is_noticed() -> None:
    """A number that the code does not print is found; other seconds are not."""
    page = "```python\nprint('0.52 after 0.3 s, gap 1e-12')\n```\n\n```text\n{}\n```\n"
    (same,) = run(page.format("0.52 after 12.0 s, gap 3e-13"))[1]
    (other,) = run(page.format("0.53 after 0.3 s, gap 1e-12"))[1]
    assert masked(same[0]) == masked(same[1])
    assert masked(other[0]) != masked(other[1])


def test_output_that_is_missing_is_noticed() -> None:
    """A block that prints, on a page that shows nothing, is a difference."""
    assert run("```python\nprint(1)\n```\n")[1] == [("", "1\n")]


def test_no_text_block_is_left_over() -> None:
    """Every block of text is the output of a block of Python: none is typed."""
    blocks = PAGES["BLOCK"].finditer(README)
    assert sum(block["printed"] is not None for block in blocks) == README.count("```text\n")


def test_code_stands_before_line_25() -> None:
    """Whoever opens the page sees code, then its plan and result, then a picture."""
    lines = README.splitlines()
    code, plan, picture, install = (
        next(i for i, line in enumerate(lines) if line.startswith(start))
        for start in ("```python", "parameter ", "![", "## Install")
    )
    assert code < 25
    assert code < plan < picture < install


def test_every_outcome_is_explained() -> None:
    """The table is the loop's own."""
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", README, re.MULTILINE))
    assert rows == OUTCOMES


def test_every_name_of_a_file_exists() -> None:
    """Links and paths that the page names are there."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    paths = re.findall(r"`((?:tests|models|docs|em_pyro)/[\w./]+)`", README)
    for name in {*links, *paths}:
        assert name.startswith("https://") or (ROOT / name).exists(), name
