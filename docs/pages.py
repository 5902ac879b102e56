"""Run the code of a page in Markdown, and compare what it prints with what the page says, or write it there.

Every fenced block of Python runs, in order, in one namespace. A fenced block of text right after it is its printed
output. `python docs/pages.py` puts fresh output into all `PAGES`, `python docs/pages.py PAGE` into one.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pyro

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if "```python\n" in page.read_text(encoding="utf-8")),
)
"""The README, and every page here with a block of Python."""

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL)
ROUNDING = 1e-7
"""Printed numbers below this are rounding, or a gap that is next to nothing: they differ from machine to machine."""


def run(page: str) -> tuple[str, list[tuple[str, str]]]:
    """Run a page.

    Args:
        page: its Markdown.

    Returns:
        The page with fresh output, and for each block that has output what the page says and what was printed.
    """
    namespace: dict[str, object] = {"__name__": "page"}
    pairs: list[tuple[str, str]] = []

    def fresh(block: re.Match[str]) -> str:
        code, said = block["code"], block["printed"]
        printed = io.StringIO()
        line = page[: block.start("code")].count("\n")
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + code, "page", "exec"), namespace)  # noqa: S102 - that is what this is for
        if said is None and not printed.getvalue():
            return block[0]
        pairs.append((said or "", printed.getvalue()))
        if said is not None and masked(said) == masked(printed.getvalue()):
            return block[0]
        return f"```python\n{code}```\n\n```text\n{printed.getvalue()}```\n"

    return BLOCK.sub(fresh, page), pairs


def masked(text: str) -> str:
    """Leave out what differs from run to run: seconds, and numbers that are rounding."""
    text = re.sub(r"\d+(\.\d+)?(e[-+]\d+)? (m?s)\b", r"... \3", text)
    tiny = re.compile(r"(?<![\w.])-?\d+(\.\d*)?e[-+]\d+")
    return tiny.sub(lambda number: "0" if abs(float(number[0])) < ROUNDING else number[0], text)


def main() -> None:
    """Put fresh output into all pages, or those whose names are given."""
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        pyro.clear_param_store()
        page.write_text(run(page.read_text(encoding="utf-8"))[0], encoding="utf-8")
        sys.stderr.write(f"{page.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
