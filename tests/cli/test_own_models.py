"""The command line on a model of the user's own: a function in a file, columns of a table."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import em_pyro
from em_pyro.cli.commands import main

MODEL = """
import pyro, pyro.distributions as dist, torch
from torch.distributions import constraints

def mixture(x, K=2):
    x = x.reshape(len(x), -1)
    spread = x[torch.arange(K) * (len(x) // K)]
    weights = pyro.param("weights", torch.ones(K).double() / K, constraint=constraints.simplex)
    loc = pyro.param("loc", spread.double())
    scale = pyro.param("scale", torch.ones(K, x.shape[1]).double(), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)

def line(dose, response, group, power=1):
    level = pyro.param("level", torch.zeros(2).double())
    slope = pyro.param("slope", torch.zeros(()).double())
    scale = pyro.param("scale", torch.ones(()).double(), constraint=constraints.positive)
    with pyro.plate("rows", len(dose)):
        pyro.sample("response", dist.Normal(level[group] + slope * dose**power, scale), obs=response)
"""


@pytest.fixture(name="here")
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a model and two tables, and stand in it."""
    generator = np.random.default_rng(0)
    rows = np.concatenate([generator.normal(size=(30, 2)), 6 + generator.normal(size=(20, 2))])
    (tmp_path / "m.py").write_text(MODEL)
    lines = [f"r{k};{a:.6f};{b:.6f}".replace(".", ",") for k, (a, b) in enumerate(rows)]
    (tmp_path / "points.csv").write_text("\n".join(["who;a;b", *lines]) + "\n")
    dose = np.arange(12.0)
    table = [f"{d},{1 + 2 * d + (k % 2) * 5 + 0.1 * (-1) ** (k // 2)},{k % 2}" for k, d in enumerate(dose)]
    (tmp_path / "doses.csv").write_text("\n".join(["dose,response,group", *table]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


POINTS = ["m.py:mixture", "points.csv", "--id", "who", "--decimal", ","]


def test_fit_label_summary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fit is saved, rows are labelled by it, their id is kept, and the file says what was found."""
    saved = ["--save", "fit.pt", "--json", "fit.json"]
    assert main(["fit", *POINTS, "--set", "K=2", "--errors", *saved]) == 0
    said = capsys.readouterr().out
    assert "closed form" in said
    assert "loc[0, 0]" in said
    answer = json.loads((here / "fit.json").read_text())
    assert answer["parameters"] == 9
    assert sorted(round(v[0]) for v in answer["params"]["loc"]) == [0, 6]
    assert main(["label", "points.csv", "--fit", "fit.pt", "--id", "who", "--decimal", ",", "--output", "out.csv"]) == 0
    with (here / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["who"] for row in rows] == [f"r{k}" for k in range(50)]
    assert len({row["z"] for row in rows[:30]}) == len({row["z"] for row in rows[30:]}) == 1
    assert float(rows[0]["z=0"]) + float(rows[0]["z=1"]) == pytest.approx(1)
    assert main(["summary", "fit.pt"]) == 0
    assert "weights[0]" in capsys.readouterr().out
    fit = em_pyro.load(here / "fit.pt")
    assert torch.equal(fit.params["loc"], torch.tensor(answer["params"]["loc"], dtype=torch.float64))


def test_plan_and_select(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is said; a range has both its ends, and the best of it is two clusters."""
    assert main(["plan", *POINTS]) == 0
    assert "closed form" in capsys.readouterr().out
    assert main(["select", *POINTS, "--over", "K=1:3", "--starts", "2"]) == 0
    said = capsys.readouterr().out
    assert "bic" in said.lower()
    assert "3" in said
    assert main(["select", *POINTS, "--over", "K=1,2", "--starts", "1", "--json", "table.json"]) == 0
    assert [row["value"] for row in json.loads((here / "table.json").read_text())] == [1, 2]


def test_numbers_are_doubles(here: Path) -> None:
    """What a model makes by default has the type of the columns, and the default is as before afterwards."""
    (here / "m.py").write_text(MODEL.replace(".double()", ""))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        assert main(["fit", *POINTS, "--save", "fit.pt"]) == 0
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(before)
    assert em_pyro.load(here / "fit.pt").params["weights"].dtype == torch.float64


def test_columns_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that are named after columns are given these, whole numbers to index with among them."""
    command = ["fit", "m.py:line", "doses.csv", "--integers", "group", "--json", "fit.json"]
    assert main(command) == 0
    answer = json.loads((here / "fit.json").read_text())
    assert answer["params"]["slope"] == pytest.approx(2, abs=0.05)
    assert answer["params"]["level"] == pytest.approx([1, 6], abs=0.2)


GROUPED = """
def grouped(dose, group):
    share = pyro.param("share", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    level = pyro.param("level", torch.tensor([[0.0, 1.0], [9.0, 10.0]]))
    with pyro.plate("rows", len(dose)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("dose", dist.Normal(level[z, group], 2.0), obs=dose)

class Doses(pyro.nn.PyroModule):
    def forward(self, dose, group):
        grouped(dose, group)

module, any_columns = Doses(), lambda **columns: grouped(columns["dose"], columns["group"])
by_place = lambda dose, /: grouped(dose, (dose > 5).long())
"""


def test_what_is_said_of_a_fit_serves_for_its_labels(here: Path) -> None:
    """Columns of whole numbers are said once; a module and `**columns` take columns by their names."""
    (here / "m.py").write_text(MODEL + GROUPED)
    said = ["doses.csv", "--integers", "group", "--columns", "dose,group"]
    assert main(["fit", "m.py:grouped", *said, "--save", "fit.pt", "--json", "fit.json"]) == 0
    assert main(["label", "doses.csv", "--fit", "fit.pt", "--output", "out.csv"]) == 0
    assert pd.read_csv(here / "out.csv")["z"].tolist() == [0] * 6 + [1] * 6
    answer = json.loads((here / "fit.json").read_text())
    for name in ("module", "any_columns"):
        assert main(["fit", f"m.py:{name}", *said, "--json", "other.json"]) == 0
        assert json.loads((here / "other.json").read_text())["params"] == answer["params"]
    assert main(["fit", "m.py:by_place", "doses.csv", "--columns", "dose"]) == 0


def test_a_race(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`compare FILE.py:NAME` is a race on it."""
    assert main(["compare", *POINTS, "--starts", "1", "--budget", "0.05"]) in (0, 1)
    assert "L-BFGS" in capsys.readouterr().out


def test_parquet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table in parquet is the same table."""
    x = np.random.default_rng(1).normal(size=40)
    frame = pd.DataFrame({"a": x}, index=pd.Index([f"r{k}" for k in range(40)], name="who"))
    frame.to_parquet(here / "a.parquet")
    command = ["--id", "who", "--set", "K=1"]
    assert main(["fit", "m.py:mixture", "a.parquet", *command, "--json", "fit.json", "--save", "fit.pt"]) == 0
    assert json.loads((here / "fit.json").read_text())["params"]["loc"][0] == pytest.approx([x.mean()])
    assert main(["label", "a.parquet", "--id", "who", "--fit", "fit.pt", "--output", "out.parquet"]) == 0
    assert pd.read_parquet(here / "out.parquet")["who"].tolist() == frame.index.tolist()
    frame["a"] = frame["a"].where(frame["a"] != x[3])
    frame.to_parquet(here / "a.parquet")
    assert main(["fit", "m.py:mixture", "a.parquet", *command]) == 2
    assert 'a.parquet, row 4, column "a": expected a number, got an empty cell' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["fit", "none.py:mixture", "points.csv"], "expected a Python file with the model"),
        (["fit", "m.py:none", "points.csv"], 'expected a function "none", got none. It has: mixture, line'),
        (["fit", "bad.py:f", "points.csv"], "bad.py, line 2: expected a file that runs, got ZeroDivisionError"),
        (["fit", "m.py:mixture", "points.csv", "--decimal", ","], 'points.csv, line 2, column "who"'),
        (["fit", "m.py:line", "points.csv", "--id", "who", "--decimal", ","], "expected columns named after"),
        (["fit", "m.py:line", "doses.csv", "--columns", "dose,response"], 'expected a column "group"'),
        (["fit", "m.py:line", "doses.csv", "--integers", "response,group"], "expected a whole number"),
        (["fit", "m.py:line", "doses.csv", "--integers", "grp"], "expected columns that the model is given"),
        (["fit", *POINTS, "--integers", "a"], "--integers: expected all columns of the matrix"),
        (["fit", "bad.py:g", "points.csv"], "bad.py, line 4: expected a file that runs, got SyntaxError"),
        (["fit", "late.py:f", "doses.csv"], "late.py, line 2: expected a model that runs, got KeyError: 'key'"),
        (["fit", *POINTS, "--set", "Q=2"], "--set Q: expected an argument of the model, x, K"),
        (["select", *POINTS, "--over", "Q=1:2"], "--over Q: expected an argument of the model, x, K"),
        (["fit", "m.py:line", "doses.csv", "--id", "nobody"], 'doses.csv: expected a column "nobody"'),
        (["fit", "m.py:line", "doses.csv", "--separator", "."], "--separator: expected another mark"),
        (
            ["select", *POINTS, "--over", "K=1:2", "--set", "K=3"],
            "--over: expected an argument that --set does not fix",
        ),
        (["summary", "none.pt"], "none.pt: No such file"),
        (["summary", "points.csv"], "points.csv: expected a file of Fit.save"),
        (["label", "points.csv", "--fit", "points.csv", "--output", "out.csv"], "expected a file of Fit.save"),
    ],
)
def test_mistakes_are_named_in_a_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    """The file, the line and the column; and the status of a command that could not be used."""
    (here / "bad.py").write_text("f = 1\n\n\ng = (\n" if "bad.py:g" in command else "f = 1\n1 / 0\n")
    (here / "late.py").write_text("def f(dose):\n    {}['key']\n")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_help_says_that_a_model_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A file with a model is a program."""
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "it is run" in capsys.readouterr().out


def test_answers_on_standard_output_are_all_there_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report goes to standard error; a fit that was saved answers the same; infinity is null."""
    once = ["--max-steps", "1", "--save", "fit.pt", "--json", "-"]
    assert main(["fit", *POINTS, *once]) == 1
    out, err = capsys.readouterr()
    answer = json.loads(out, parse_constant=pytest.fail)
    assert answer["outcome"] == "step limit"
    assert answer["gap"] is None
    assert "step limit after 1 step" in err
    assert main(["summary", "fit.pt", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {name: again[name] for name in ("params", "bic")} == {name: answer[name] for name in ("params", "bic")}
    assert main(["select", *POINTS, "--over", "K=1,2", "--starts", "1", "--json", "-"]) == 0
    assert [row["value"] for row in json.loads(capsys.readouterr().out)] == [1, 2]
    assert not (here / "-").exists()


def test_a_decimal_comma_and_a_column_named_twice_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the option that helps."""
    assert main(["fit", "m.py:mixture", "points.csv", "--id", "who"]) == 2
    assert "Pass --decimal , if the comma is the mark in numbers." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fit", *POINTS, "--columns", "a,a"])
    assert "expected each column once" in capsys.readouterr().err
