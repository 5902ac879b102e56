"""Checkpoints: a fit that is killed goes on where it was, bit for bit; what is not its file is refused by name."""

import contextlib
import errno
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.killed import CASES, fitted
from programs.loops import equal, mixture, points, stored
from torch import Tensor

from em_pyro import EM, CheckpointWarning, DataError, EMError, Fit, ModelError, ParameterError, files
from em_pyro.fit.acceleration.secants import Secants
from em_pyro.fit.acceleration.squarem import Squarem
from em_pyro.fit.checkpoint.journal import Journal

HERE = Path(__file__).parents[1]


def same(one: Fit, other: Fit) -> bool:
    """Whether two fits took the same path to the same end, to the last bit; what is said of files apart."""
    notes = [[note for note in fit.notes if not note.startswith("checkpoint")] for fit in (one, other)]
    values = all(torch.equal(one.params[n], v) and one.params[n].dtype == v.dtype for n, v in other.params.items())
    ends = [(f.path, f.outcome, f.num_steps, f.objective, f.gap, str(f.starts), f.switches) for f in (one, other)]
    return values and ends[0] == ends[1] and notes[0] == notes[1]


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


@pytest.mark.parametrize("name", CASES)
def test_a_killed_fit_goes_on_bit_for_bit(name: str, killed: Path, tmp_path: Path) -> None:
    """In another process, with other hashes and other draws of initialisers: as if it had never been stopped."""
    path = tmp_path / "fit.pt"
    path.write_bytes((killed / f"{name}.pt").read_bytes())
    assert not torch.load(path, weights_only=True)["over"]
    again = fitted(name, path, seed=1)
    (note,) = [note for note in again.notes if note.startswith("checkpoint")]
    assert "went on after" in note
    assert same(again, fitted(name, seed=0))
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

    monkeypatch.setattr(Journal, "begun", forgetful)
    assert not same(fitted(name, path, seed=1), fitted(name, seed=0))


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


# ---- whose it is -----------------------------------------------------------------------------------------------------


def shifted(x: Tensor, K: int = 2) -> None:
    """Add a constant to a density of the mixture."""
    mixture(x, K)
    pyro.factor("more", torch.tensor(0.5))


def other_data(x: Tensor) -> Tensor:
    """Change one number by a hair."""
    y = x.clone()
    y[3] += 1e-9
    return y


OTHERS: dict[str, tuple[type[EMError], str, Callable[[Path, Tensor], EM], Callable[[Tensor], Tensor]]] = {
    "data": (DataError, "data", lambda p, x: EM(mixture, checkpoint=p), other_data),
    "rows": (DataError, "data", lambda p, x: EM(mixture, checkpoint=p), lambda x: x[1:]),
    "order": (DataError, "data", lambda p, x: EM(mixture, checkpoint=p), lambda x: x.flip(0)),
    "components": (ModelError, "weights", lambda p, x: EM(partial(mixture, K=3), checkpoint=p), lambda x: x),
    "site": (ModelError, '"more"', lambda p, x: EM(shifted, checkpoint=p), lambda x: x),
    "tol": (ParameterError, "tol", lambda p, x: EM(mixture, checkpoint=p, tol=1e-6), lambda x: x),
    "starts": (ParameterError, "starts", lambda p, x: EM(mixture, checkpoint=p, starts=2), lambda x: x),
    "values": (
        ParameterError,
        "starts",
        lambda p, x: EM(mixture, checkpoint=p, starts={"loc": torch.tensor([0.0, 1.0])}),
        lambda x: x,
    ),
    "m_step": (ParameterError, "m_step", lambda p, x: EM(mixture, checkpoint=p, m_step={"loc": "torch"}), lambda x: x),
    "seed": (ParameterError, "seed", lambda p, x: EM(mixture, checkpoint=p, seed=1), lambda x: x),
    "plan": (ParameterError, "collapse", lambda p, x: EM(mixture, checkpoint=p, collapse=False), lambda x: x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_file_of_another_fit_is_refused(name: str, tmp_path: Path) -> None:
    """By name, before anything runs, with the file and the store as they were."""
    x, path = points(), tmp_path / "fit.pt"
    EM(mixture, checkpoint=path, tol=1e-3).fit(x) if name == "tol" else EM(mixture, checkpoint=path).fit(x)
    error, said, other, changed = OTHERS[name]
    pyro.clear_param_store()
    before, held = path.read_bytes(), stored()
    with pytest.raises(error, match=said) as caught:
        other(path, x).fit(changed(x))
    assert "expected" in str(caught.value)
    assert path.read_bytes() == before
    assert equal(stored(), held)


def test_densities_tell_models_apart(tmp_path: Path) -> None:
    """The same statements with another constant are another model."""

    def of(width: float) -> Callable[[Tensor], None]:
        def model(x: Tensor) -> None:
            loc = pyro.param("loc", torch.tensor([0.0, 1.0]))
            with pyro.plate("row", len(x)):
                z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
                pyro.sample("x", dist.Normal(loc[z], width), obs=x)

        return model

    EM(of(1.0), checkpoint=tmp_path / "a.pt", max_steps=3).fit(points())
    with pytest.raises(ModelError, match='density of site "x"'):
        EM(of(1.1), checkpoint=tmp_path / "a.pt", max_steps=3).fit(points())


@pytest.mark.parametrize("what", ["truncated", "text", "a fit", "flipped"])
def test_what_is_no_checkpoint_is_refused(what: str, tmp_path: Path) -> None:
    """And not overwritten: it may be something of worth."""
    x, path = points(), tmp_path / "fit.pt"
    fit = EM(mixture, checkpoint=path, every=5, max_steps=12).fit(x)
    data = bytearray(path.read_bytes())
    if what == "a fit":
        fit.save(path)
    elif what == "flipped":
        data[data.index(struct.pack("<d", 1.5)) + 3] ^= 4  # in the scale of the start
        path.write_bytes(bytes(data))
    else:
        path.write_bytes(bytes(data[: len(data) // 2]) if what == "truncated" else b"x,y\n1,2\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match="expected a file of EM"):
        EM(mixture, checkpoint=path, every=5, max_steps=12).fit(x)
    assert path.read_bytes() == before


# ---- disks -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(most: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_is_told_once_and_the_fit_goes_on(tmp_path: Path) -> None:
    """By a warning of its own kind, and by a note with the number of times; what was written before stays whole."""
    x, path = points(), tmp_path / "fit.pt"
    plain = EM(mixture).fit(x)
    pyro.clear_param_store()
    with small_disk(1000), pytest.warns(CheckpointWarning, match="The fit goes on") as told:
        fit = EM(mixture, checkpoint=path, every=10).fit(x)
    assert len(told) == 1
    assert same(fit, plain)
    (note,) = [note for note in fit.notes if "checkpoint" in note]
    assert "not written 5 times" in note
    assert list(tmp_path.iterdir()) == [], "no part of a file is left behind"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """At once, before the first step."""
    with pytest.warns(CheckpointWarning, match="FileNotFoundError"):
        fit = EM(mixture, checkpoint=tmp_path / "none" / "fit.pt", max_steps=5).fit(points())
    assert fit.num_steps == 5


def test_a_write_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is read-only from the middle on: the file is that of the last write that went well."""
    x, path, calls = points(), tmp_path / "fit.pt", list[int]()
    sync = os.fsync

    def fails_later(number: int) -> None:
        calls.append(number)
        if len(calls) > 3:
            raise OSError(errno.EROFS, "Read-only file system")
        sync(number)

    plain = EM(mixture).fit(x)
    monkeypatch.setattr(os, "fsync", fails_later)
    pyro.clear_param_store()
    with pytest.warns(CheckpointWarning, match="Read-only"):
        EM(mixture, checkpoint=path, every=5).fit(x)
    monkeypatch.setattr(os, "fsync", sync)
    pyro.clear_param_store()
    again = EM(mixture, checkpoint=path, every=5).fit(x)
    assert same(again, plain)
    assert "went on after 10 steps" in again.notes[-1] or any("went on after 10 steps" in n for n in again.notes)


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
