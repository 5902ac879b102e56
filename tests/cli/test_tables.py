"""Tables that people made: the ways to write one, and those that cannot be read."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from em_pyro.cli.commands import main
from em_pyro.cli.tables import TableError, read


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("x|y\n1,5|2\n-3|,25\n", {"separator": "|", "decimal": ","}),
        ("x y\n 1.5   2\n-3 0.25\n", {"separator": " "}),
        ("\r\nx,y,\r\n1.5,2,\r\n\r\n-3,.25,\r\n", {}),
        ('"x","y"\n"1.5", "2"\n-3 ,2.5e-1\n', {}),
        ("x;y\n1,5;2\n-3;0,25\n", {"decimal": ","}),
    ],
)
def test_ways_to_write_a_table(text: str, options: dict[str, str], file: Any) -> None:
    """Separators, decimal commas, quotes, blanks, empty lines and columns: the numbers are the same."""
    table = read(Path(file(text)), **options)  # type: ignore[arg-type]
    assert table.names == ("x", "y")
    assert table.numbers(["x", "y"]).tolist() == [[1.5, 2.0], [-3.0, 0.25]]


def test_no_file(tmp_path: Path, file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing, a folder, or not text gives exit status 2 and one line."""
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    for name in ("missing.csv", ".", "binary.csv"):
        assert main(["gaussians", "--data", str(tmp_path / name)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert read(Path(file("\ufeffx\n1\n"))).names == ("x",)  # a byte-order mark, as spreadsheets write
    with pytest.raises(TableError, match="text file"):
        read(Path(file("größe\n1\n", encoding="latin-1")))


def test_without_pandas(file: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes with the package needs none; a file of one's own is refused in a line that says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert main(["coins"]) == 0
    capsys.readouterr()
    assert main(["coins", "--data", file("heads,flips\n5,10\n9,10\n")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected pandas" in line
    assert "pip install 'em-pyro[data]'" in line


def test_numbers_of_a_table(file: Any) -> None:
    """Cells are read as they stand: spaces do not matter, order of columns does."""
    table = read(Path(file(" a ; b \n 1 ; 2e3 \n-4;.5\n")))
    assert table.headed
    assert table.names == ("a", "b")
    assert table.numbers(["b", "a"]).tolist() == [[2000.0, 1.0], [0.5, -4.0]]
    assert math.isclose(table.numbers(["a"]).sum(), -3)
