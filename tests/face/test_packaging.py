"""The wheel: what a stranger gets who installs the package and is nowhere near the repository."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import em_pyro

ROOT = Path(__file__).parents[2]
Python = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the repository and nothing stale is picked up."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("em_pyro", "models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)], target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Return a function that runs the Python of an environment with the wheel in it, in an empty folder.

    What the wheel depends on is borrowed from here by a `.pth` file. Such a file puts the folder on the path but does
    not obey the `.pth` files in it, so the editable install of the package that is there is not seen.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    environment, empty = folder / "environment", folder / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], empty).strip())
    run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], empty)
    borrowed = {str(Path(module.__file__ or "").parents[1]) for module in (torch, np)}
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return lambda *arguments: run([str(python), *arguments], empty)


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, without the paths and threads of this process, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_contents(wheel: Path) -> None:
    """The wheel holds every module and every data file, and nothing else but its own records."""
    expected = set()
    for folder, package in (("em_pyro", "em_pyro"), ("models", "em_pyro/models")):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".csv", ".md", ".typed"):
                expected.add(f"{package}/{file.relative_to(ROOT / folder).as_posix()}")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert names == expected


def test_licence(wheel: Path) -> None:
    """The licence travels with the wheel."""
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


INSTALLED = """
import runpy, sys
from importlib.metadata import entry_points, version
from importlib.resources import files
import em_pyro, em_pyro.models.coins as coins, em_pyro.analytic
print(em_pyro.__file__, coins.__file__, version("em-pyro"), sep="\\n")
print(next(e.value for e in entry_points(group="console_scripts") if e.name == "em-pyro"))
print((files("em_pyro.models.data") / "faithful.csv").read_text(encoding="utf-8"), end="END\\n")
sys.argv = ["em_pyro", "coins", "--equal-weights"]
runpy.run_module("em_pyro", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def told(elsewhere: Python) -> list[str]:
    """What is installed, line by line, the last what the command line says: of one interpreter, which has to import."""
    *lines, rest = elsewhere("-c", INSTALLED).split("\n", 4)
    return [*lines, *rest.split("END\n")]


def test_import(told: list[str]) -> None:
    """The package and its models are imported from where they were installed, not from the repository.

    A data file is read through `importlib.resources`, byte by byte what the repository holds.
    """
    package, models, version, _, data, _ = told
    assert Path(models) == Path(package).parent / "models" / "coins.py"
    assert ROOT not in Path(package).parents
    assert version == em_pyro.__version__
    assert data == (ROOT / "models" / "data" / "faithful.csv").read_text(encoding="utf-8")


def test_the_description_leads_nowhere_that_is_not_there(wheel: Path) -> None:
    """Links and pictures that lie in the repository are left out of what an index shows; the text is the README's."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("METADATA"))
        shown = archive.read(name).decode()
    assert "Description-Content-Type: text/markdown" in shown
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", shown) == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(line in shown for line in readme.splitlines() if line.startswith(("#", "    ", "fit = ")))


def test_source(tmp_path: Path) -> None:
    """The source distribution has what a packager tests and builds the pages from."""
    source = tmp_path / "source"
    kept = ("em_pyro", "models", "tests", "docs", "examples", "benchmarks")
    for name in kept:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "models")
        )
    shutil.copytree(ROOT / "models", source / "models", dirs_exist_ok=True)
    for file in ROOT.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, source)
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(source)], tmp_path)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in (
        "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "constraints.txt", "em_pyro/py.typed", "tests/README.md",
        "tests/conftest.py", "docs/house.md", "docs/conf.py", "docs/reference/em_pyro.md", "docs/static/site.css",
        "docs/root/index.html", "examples/coins.py", "models/data/faithful.csv", "benchmarks/RESULTS.md",
    ):  # fmt: skip
        assert name in names
    assert not [name for name in names if name.startswith("build/") or name.endswith((".doctree", ".ipynb"))]


TYPED = """
import torch

import em_pyro
import em_pyro

def model(x: torch.Tensor) -> None: ...

fit = em_pyro.EM(model, starts=3).fit(torch.zeros(2))
reveal_type(fit.log_likelihood)
reveal_type(fit.params)
fit.posterior.marginal(3)
"""


def test_types(elsewhere: Python, tmp_path: Path) -> None:
    """A type checker sees the types of what is installed, and the mistake in a script of the user's."""
    script = tmp_path / "script.py"
    script.write_text(TYPED)
    python = elsewhere("-c", "import sys; print(sys.executable)").strip()
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\n[mypy-torch.*,pyro.*,numpy.*,matplotlib.*]\nfollow_imports = skip\n")  # not ours
    options = ["--strict", "--python-executable", python, "--config-file", str(settings), "--cache-dir", os.devnull]
    command = [sys.executable, "-m", "mypy", *options, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout
    assert 'Revealed type is "float"' in said or 'Revealed type is "builtins.float"' in said, said
    assert "dict[" in said
    assert said.count("error:") == 1, said
    assert 'argument "site"' in said.lower() or "arg-type" in said


def test_command_line(told: list[str]) -> None:
    """The command line fits the coins that come with the package, under its own name too."""
    *_, entry, _, said = told
    assert "bias" in said
    assert "coins.csv" in said
    assert entry == "em_pyro.cli.commands:main"
