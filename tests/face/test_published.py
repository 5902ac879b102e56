"""The benchmark of Pyro's own examples: it says so where their files are not at hand."""

from pathlib import Path

import pytest

from benchmarks import published


def test_without_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One row without the folder, and one for every file that is not in it; both stand in the page."""
    monkeypatch.delenv(published.FOLDER, raising=False)
    (row,) = published.compare()
    assert published.FOLDER in row["failed"]
    monkeypatch.setenv(published.FOLDER, str(tmp_path))
    rows = published.compare()
    assert [row["title"] for row in rows] == list(published.EXAMPLES)
    assert all("not run: no " in row["failed"] for row in rows)
    for title in ("hmm.py, model 0", "lda.py", "mixed_hmm"):
        assert f"| {title} | not run" in published.page(rows)


def test_a_row_of_the_page() -> None:
    """What an example has measured."""
    row = {"title": "a", "how": "1 closed form", "outcome": "converged", "steps": 3, "objective": -1.5, "apart": 0.0}
    row |= {"milliseconds": 2.0, "svi": 4.0, "planning": 0.1, "ascended": -2.0, "seconds": 1.0, "given": 10.0}
    text = published.page([row])
    assert "| a | 1 closed form | converged after 3 | -1.5000 | 0e+00 | 2.0 | 4.0 | 0.50 | 0.10 |" in text
    assert "| +0.5 | 1.0 | 10.0 |" in text
    stopped = {**row, "milliseconds": float("nan"), "given": published.MOST}
    assert f"| nan | 4.0 | nan | 0.10 | +0.5 | 1.0 | {published.MOST:.1f}* |" in published.page([stopped])
