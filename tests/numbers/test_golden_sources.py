"""Golden numbers say where they come from; what they need and the repository may not hold is named, never guessed."""

import json
from pathlib import Path
from typing import Any

import pytest
from oracles.agreement import NUMBERS, OUTSIDE, expected, outside

FILES = sorted(file.stem for file in NUMBERS.glob("*.json"))


def without_source(answers: dict[str, Any]) -> list[str]:
    """List the groups of numbers of a case that have no source beside them."""
    groups = [name for name, value in answers.items() if not isinstance(value, str)]
    return [name for name in groups if not answers.get(f"{name}_source")]


@pytest.mark.parametrize("case", FILES)
def test_every_number_has_its_source(case: str) -> None:
    """Each group of numbers says how it was obtained, and the case what its model and its data are."""
    answers = expected(case)
    assert without_source(answers) == []
    assert answers["model"]
    assert {"data_source", "flow_source", "covariance_source"} & set(answers)


def test_a_number_without_a_source_is_noticed() -> None:
    """A group whose source is missing, or empty, is found."""
    assert without_source({"model": "m", "golden": 1.0, "golden_source": "book, table 1"}) == []
    assert without_source({"model": "m", "golden": 1.0, "more": [2.0], "more_source": ""}) == ["golden", "more"]


@pytest.mark.parametrize("case", OUTSIDE)
def test_absent_data_are_named(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable a test skips and says what to set; the page of the tests says what the file holds."""
    monkeypatch.delenv("EM_PYRO_GOLDEN", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"data of {case} .* set EM_PYRO_GOLDEN .* {OUTSIDE[case]}"):
        outside(case)
    assert f"`{OUTSIDE[case]}`" in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert expected(case)["data_source"].startswith("not in the repository")


def test_a_folder_without_the_data_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set and wrong does not pass for one that is not set."""
    monkeypatch.setenv("EM_PYRO_GOLDEN", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="speed"):
        outside("speed")


def test_columns_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and words are read alike."""
    file = tmp_path / OUTSIDE["speed"]
    file.parent.mkdir()
    file.write_text("rt,corr,series\n6.5,cor,1\n5.25,inc,2\n")
    monkeypatch.setenv("EM_PYRO_GOLDEN", str(tmp_path))
    data = outside("speed")
    assert json.dumps([data[name].tolist() for name in ("rt", "corr", "series")]) == (
        '[[6.5, 5.25], ["cor", "inc"], [1, 2]]'
    )
