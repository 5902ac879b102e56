"""The command line: the demonstration, a stranger's own file, and files that are no good."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from oracles.tolerances import IDENTITY, SOLVERS, printed

from em_pyro import analytic
from em_pyro.cli import demo
from em_pyro.cli.commands import main

COINS = "heads,flips\n5,10\n9,10\n8,10\n4,10\n7,10\n"
PLANE = "1.0,2.0\n1.5,1.0\n0.5,2.5\n7.0,9.0\n9.0,7.0\n8.5,9.5\n0.0,1.5\n9.5,11.0\n"


def answer(tmp_path: Path, *command: str) -> dict[str, Any]:
    """Run a command that must succeed, and return what it saves."""
    out = tmp_path / "answer.json"
    assert main([*command, "--json", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a command the demonstration runs; it names its folder, and all its numbers agree."""
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "out") in said
    names = {file.name for file in (tmp_path / "out").iterdir()}
    pictures = ("coins", "faithful", "waiting")
    assert names == {f"{name}.png" for name in pictures} | {f"{name}_path.png" for name in pictures}
    rows = {line.rsplit(None, 3)[0]: line.split()[-3:] for line in said.splitlines() if line.count(".") == 3}
    # Do & Batzoglou (2008), figure 1b; mclust's vignette. The demonstration must print them and agree with them.
    for label, published in {"bias[0]": "0.80", "bias[1]": "0.52", "log-likelihood": "-1130.264"}.items():
        ours, by_hand, shown = rows[label]
        assert shown == published
        assert abs(float(ours) - float(published)) <= printed(published)
        assert abs(float(ours) - float(by_hand)) <= IDENTITY * (1 + abs(float(by_hand)))
    differences = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("Largest difference")]
    assert len(differences) == 3
    assert max(differences) < IDENTITY


def test_demo_notices_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EM by hand that is wrong by a thousandth in a late step makes the demonstration, here its first part, fail."""
    right, chapters = analytic.coin_mixture, demo.chapters
    monkeypatch.setattr(demo, "chapters", lambda: islice(chapters(), 1))

    def wrong(*args: Any, **kwargs: Any) -> analytic.ParameterPath:
        path = right(*args, **kwargs)
        path.params["bias"][-1] *= 1.001
        return path

    assert demo.run(tmp_path, progress=False) == 0
    monkeypatch.setattr(analytic, "coin_mixture", wrong)
    assert demo.run(tmp_path, progress=False) == 1


def test_coins(tmp_path: Path, file: Any) -> None:
    """A file of heads and tosses gives the golden answer for Do & Batzoglou's, with header or without."""
    for text in (COINS, COINS.partition("\n")[2], COINS.replace(",", "\t"), COINS.replace("flips", "n")):
        fit = answer(tmp_path, "coins", "--data", file(text), "--equal-weights", "--tol", "1e-13")
        # Independently computed to 30 digits: 0.796789066922646910..., 0.519583120145135055...
        assert sorted(fit["params"]["bias"]) == pytest.approx([0.5195831201451351, 0.7967890669226469], abs=SOLVERS)
        assert fit["log_likelihood"] == pytest.approx(-9.7969242922216, abs=SOLVERS)
        assert fit["converged"] is True
        high = fit["params"]["bias"].index(max(fit["params"]["bias"]))
        assert [row == high for row in fit["assignments"]] == [False, True, True, False, True]


def test_equal_weights(tmp_path: Path, file: Any) -> None:
    """Weights are parameters unless they are known to be equal, and then the likelihood is no higher."""
    free = answer(tmp_path, "coins", "--data", file(COINS))
    equal = answer(tmp_path, "coins", "--data", file(COINS), "--equal-weights")
    assert set(free["params"]) == {"bias", "weights"}
    assert set(equal["params"]) == {"bias"}
    assert free["log_likelihood"] > equal["log_likelihood"]


# mclust 6.0.0 at a tight tolerance, polished by Newton: VVV2, EEE2, VVI2
@pytest.mark.parametrize(
    ("covariance", "expected"),
    [("full", -1130.2639601847416), ("tied", -1140.1867594370822), ("diagonal", -1147.8063525378107)],
)
def test_gaussians(tmp_path: Path, covariance: str, expected: float) -> None:
    """Old Faithful under each kind of covariance reaches the maximum that others computed."""
    fit = answer(tmp_path, "gaussians", "--covariance", covariance)
    assert fit["log_likelihood"] == pytest.approx(expected, rel=SOLVERS)


def test_spherical(tmp_path: Path, file: Any) -> None:
    """Round clusters have one number each for their width, and EM by hand agrees from there on."""
    fit = answer(tmp_path, "gaussians", "--data", file(PLANE), "--covariance", "spherical")
    params = {name: np.array(value) for name, value in fit["params"].items()}
    assert params["scale"].shape == (2,)
    x = np.array([line.split(",") for line in PLANE.split()], dtype=np.float64)
    again = analytic.gaussian_mixture(
        x, params["loc"], params["scale"] ** 2, params["weights"], steps=5, covariance="spherical"
    )
    assert fit["log_likelihood"] == pytest.approx(again.log_likelihood[-1], rel=SOLVERS)


def test_line(tmp_path: Path, file: Any) -> None:
    """One column is a mixture on the line, and "tied" is one width for all."""
    data = file(PLANE)
    own = answer(tmp_path, "gaussians", "--data", data, "--columns", "1")
    tied = answer(tmp_path, "gaussians", "--data", data, "--columns", "1", "--covariance", "tied")
    assert len(own["params"]["scale"]) == 2
    assert isinstance(tied["params"]["scale"], float)
    assert own["log_likelihood"] > tied["log_likelihood"]


def test_columns(tmp_path: Path, file: Any) -> None:
    """Columns are chosen by name, in the order given; the others may hold anything."""
    text = "id,y,x\n" + "".join(f"row{i},{line}\n" for i, line in enumerate(PLANE.split()))
    whole = answer(tmp_path, "gaussians", "--data", file(PLANE), "--covariance", "tied")
    named = answer(tmp_path, "gaussians", "--data", file(text), "--columns", "y,x", "--covariance", "tied")
    swapped = answer(tmp_path, "gaussians", "--data", file(text), "--columns", "x, y", "--covariance", "tied")
    assert named["params"] == whole["params"]
    for there, here in zip(named["params"]["loc"], swapped["params"]["loc"], strict=True):
        assert there == pytest.approx(here[::-1], rel=SOLVERS)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_plot(tmp_path: Path, file: Any, kind: str) -> None:
    """A picture is drawn in each format, in one of them of coins, of a line, of a plane and of a space."""
    target = tmp_path / f"picture.{kind}"
    space = "".join(f"{line},{i % 3}\n" for i, line in enumerate(PLANE.split()))
    commands = {"coins": COINS, "line": PLANE, "plane": PLANE, "space": space}
    for name, text in commands.items() if kind == "png" else [("coins", COINS)]:
        command = ["coins"] if name == "coins" else ["gaussians", "--covariance", "tied"]
        columns = ["--columns", "1"] if name == "line" else []
        assert main([*command, *columns, "--data", file(text), "--plot", str(target)]) == 0
        assert target.stat().st_size > 5000
        target.unlink()


def test_options_change_the_result(tmp_path: Path) -> None:
    """No option is ignored."""
    plain = answer(tmp_path, "gaussians")
    assert answer(tmp_path, "gaussians", "--tol", "1e-3")["steps"] < plain["steps"]
    three = ["gaussians", "--components", "3", "--tol", "1e-2", "--starts"]
    one = answer(tmp_path, *three, "1")
    assert (len(plain["params"]["loc"]), len(one["params"]["loc"])) == (2, 3)
    assert answer(tmp_path, *three, "4")["log_likelihood"] > one["log_likelihood"]
    runs = [answer(tmp_path, *three, "2", "--seed", seed) for seed in ("1", "1", "3")]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_unfinished(capsys: pytest.CaptureFixture[str]) -> None:
    """A fit that reaches the cap of steps is shown, and the exit status says that it did not converge."""
    assert main(["gaussians", "--max-steps", "2"]) == 1
    assert "loc" in capsys.readouterr().out


def test_param_store(file: Any) -> None:
    """A fit leaves the param store of its process as it was."""
    pyro.param("bias", torch.tensor(3.0))
    assert main(["coins", "--data", file(COINS)]) == 0
    assert dict(pyro.get_param_store()) == {"bias": torch.tensor(3.0)}


@pytest.mark.parametrize(
    ("command", "text", "parts"),
    [
        ("gaussians", "", ["expected rows"]),
        ("gaussians", "x,y\n", ["expected rows"]),
        ("gaussians", "1,2\n3\n", ["line 2", "2 cells", "got 1"]),
        ("gaussians", "\n\nx,y\n1,2\n\n3,4,5\n", ["line 6", "2 cells", "got 3"]),
        ("gaussians --columns y", 'x,y\n"a\nb",2\n"c",oops\n', ["line 4", '"y"', '"oops"']),
        ("gaussians", "x,x\n1,2\n3,5\n", ["one column", '"x"', "got 2"]),
        ("gaussians", "x,y\n1,2\n3,NA\n", ["line 3", '"y"', '"NA"']),
        ("gaussians", "x,1990\n1,2\n3,5\n", ["line 1", '"x"', "a header", "no number"]),
        ("gaussians", "x,y\n1,2\n\n3,oops\n", ["line 4", '"y"', '"oops"']),
        ("gaussians", "x,y\n1,2\n3,\n", ["line 3", '"y"', "empty cell"]),
        ("gaussians", "1,2\n3,nan\n", ["line 2", '"nan"']),
        ("gaussians", "1,2\n3,inf\n", ["line 2", '"inf"']),
        ("gaussians", "1,2\n1,3\n1,4\n", ['column "1"', "vary"]),
        ("gaussians", "1,2\n", ["vary"]),
        ("gaussians", '1,"2\n3,4\n', ["comma-separated"]),
        ("gaussians --components 4", "1,2\n3,4\n5,7\n", ["at least 4 rows", "got 3"]),
        ("gaussians --columns z", "x,y\n1,2\n3,4\n", ['"z"', "x, y"]),
        ("coins", "a,b\n1,2\n", ['"heads"', '"flips"', "a, b"]),
        ("coins", "1,2,3\n4,5,6\n", ['"heads"', "1, 2, 3"]),
        ("coins --columns a", "a,b\n1,2\n3,4\n", ["--columns", "two", "got 1"]),
        ("coins", "heads,flips\n1,2\n-1,3\n", ["line 3", '"heads"', "count", "-1"]),
        ("coins", "heads,flips\n1,2\n1.5,3\n", ["line 3", '"heads"', "count", "1.5"]),
        ("coins", "heads,flips\n1,2\n4,3\n", ["line 3", "no more heads than tosses", "4 of 3"]),
        ("coins --components 3", "1,2\n1,3\n", ["at least 3 rows"]),
    ],
)
def test_bad_file(command: str, text: str, parts: list[str], file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no good gives exit status 2 and one line that says where and what."""
    name = file(text)
    assert main([*command.split(), "--data", name]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("em-pyro: error: ")
    assert all(part in line for part in parts), line
    assert name in line or "--columns: expected two" in line


def test_ids(tmp_path: Path, file: Any) -> None:
    """A column that tells rows apart is not fitted, and is kept as it is written."""
    text = "who,x,y\n" + "".join(f"00{i},{line}\n" for i, line in enumerate(PLANE.split()))
    named = answer(tmp_path, "gaussians", "--data", file(text), "--id", "who", "--covariance", "tied")
    assert named["ids"] == [f"00{i}" for i in range(8)]
    assert named["params"] == answer(tmp_path, "gaussians", "--data", file(PLANE), "--covariance", "tied")["params"]


def test_closed_pipe() -> None:
    """`em-pyro ... | head` ends without a word."""
    command = [sys.executable, "-m", "em_pyro", "coins"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "wrong",
    [
        "sort",
        "coins --components 0",
        "coins --components two",
        "coins --starts -1",
        "coins --tol -1",
        "coins --tol nan",
        "coins --covariance full",
        "gaussians --covariance round",
        "gaussians --plot picture.docx",
        "gaussians --plot no/such/folder/picture.png",
        "gaussians --json .",
        "--out here coins",
    ],
)
def test_bad_command(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that makes no sense is refused before anything is fitted."""
    with pytest.raises(SystemExit) as stop:
        main(wrong.split())
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_degenerate_data_are_no_traceback(file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Two distinct points for two clusters: whatever EM makes of it, the user gets words and an exit status."""
    status = main(["gaussians", "--data", file("1,1\n1,1\n2,3\n2,3\n")])
    said = capsys.readouterr()
    assert status in (1, 2)
    assert status == 1 or len(said.err.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["demo"], ["coins"], ["gaussians"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page fits a terminal of 100 columns and names every option with a word about it."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert max(len(line) for line in page.splitlines()) <= 100
    expected = [] if not command else ["--out"] if command == ["demo"] else ["--data", "--components", "--plot"]
    assert all(option in page for option in expected or ["coins", "gaussians", "demo", "exit status"])
