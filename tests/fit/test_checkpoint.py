"""Checkpoints: a fit that is killed goes on where it was, bit for bit, and one that writes is one that does not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from oracles.same_path import same
from programs.killed import CASES, fitted
from programs.loops import mixture, points

from em_pyro import EM, Fit, ParameterError, files
from em_pyro.fit.acceleration.secants import Secants
from em_pyro.fit.acceleration.squarem import Squarem
from em_pyro.fit.checkpoint.journal import Journal

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that processes have left which were killed in the middle of their fits, by SIGKILL."""
    folder = tmp_path_factory.mktemp("killed")
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    setting = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-W", "ignore", str(HERE / "programs" / "killed.py"), str(folder)]
    ended = subprocess.run(program, env=setting, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    deaths = dict(line.split() for line in ended.stdout.splitlines())
    assert deaths == dict.fromkeys((name.replace(" ", "_") for name in CASES), str(-signal.SIGKILL)), (
        "every process was killed before its end"
    )
    return folder


@cache
def unstopped(name: str) -> Fit:
    """The fit that nothing stops."""
    return fitted(name, seed=0)


@pytest.mark.parametrize("name", CASES)
def test_a_killed_fit_goes_on_bit_for_bit(name: str, killed: Path, tmp_path: Path) -> None:
    """In another process, with other hashes and other draws of initialisers: as if it had never been stopped."""
    path = tmp_path / "fit.pt"
    path.write_bytes((killed / f"{name}.pt").read_bytes())
    assert not torch.load(path, weights_only=True)["over"]
    again = fitted(name, path, seed=1)
    (note,) = [note for note in again.notes if note.startswith("checkpoint")]
    assert "went on after" in note
    assert same(again, unstopped(name))
    assert torch.load(path, weights_only=True)["over"]


FORGETFUL: dict[str, Callable[[Any], Any]] = {
    "climbed": lambda path: path._replace(memory={}),
    "wide": lambda path: path._replace(memory={}),
    "network": lambda path: path._replace(memory={}),
    "quasi-newton": lambda path: path._replace(spent=replace(path.spent, secants=Secants.none(6))),
    "squarem": lambda path: path._replace(spent=replace(path.spent, squarem=Squarem(step_max=1.0))),
    "plain": lambda path: path._replace(before=path.before[1:]),
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_what_is_forgotten_is_noticed(name: str, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a path that has lost what was learnt goes another way, and the test above sees it."""
    begun, path = Journal.begun, tmp_path / "fit.pt"
    path.write_bytes((killed / f"{name}.pt").read_bytes())

    def forgetful(self: Journal, problem: Any) -> Any:
        state = begun(self, problem)
        return state if state is None else FORGETFUL[name](state)

    whole = unstopped(name)
    monkeypatch.setattr(Journal, "begun", forgetful)
    assert not same(fitted(name, path, seed=1), whole)


# ---- when it is written, and that it changes nothing -----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"starts": 7}, {"acceleration": "squarem"}, {"acceleration": "quasi-newton"}])
def test_a_checkpoint_changes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    """The fit that writes is the fit that does not, and its own file gives its answer."""
    x = points()
    plain = EM(mixture, **options).fit(x)
    pyro.clear_param_store()
    kept = EM(mixture, checkpoint=tmp_path / "fit.pt", every=4, **options).fit(x)
    assert same(plain, kept)
    assert kept.notes == plain.notes
    assert [path.name for path in tmp_path.iterdir()] == ["fit.pt"]


def test_every_is_counted_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once at the beginning, once at the end, and every so many steps between them."""
    written = list[Any]()
    write = files.write
    monkeypatch.setattr(files, "write", lambda *args: (written.append(args[-1]["steps"]), write(*args)))
    EM(mixture, checkpoint=tmp_path / "a.pt", every=7, tol=0, max_steps=30).fit(points())
    assert written == [0, 7, 14, 21, 28, 30]


def test_an_interrupted_fit_leaves_its_last_step(tmp_path: Path) -> None:
    """Ctrl-C and an error of the callback write what the next fit goes on from; the store has the best values."""
    x, path, steps = points(), tmp_path / "fit.pt", list[int]()

    def stop(state: Any) -> None:
        steps.append(state.step)
        if len(steps) == 13:
            raise KeyboardInterrupt

    plain = EM(mixture, callback=lambda state: None).fit(x)
    pyro.clear_param_store()
    em = EM(mixture, checkpoint=path, every=1000, callback=stop)
    with pytest.raises(KeyboardInterrupt):
        em.fit(x)
    assert em.last is not None
    assert em.last.outcome == "interrupted"
    assert same(em.fit(x), plain)
    assert steps[12:15] == [13, 13, 14]


def test_the_option_is_looked_at() -> None:
    """What is no path and no number of steps is refused when the EM is built."""
    wrong: list[dict[str, Any]] = [
        {"checkpoint": 3},
        {"checkpoint": ""},
        {"every": 0},
        {"every": 2.5},
        {"every": True},
        {"every": 50},
    ]
    for options in wrong:
        with pytest.raises(ParameterError, match=next(iter(options))):
            EM(mixture, **options)
