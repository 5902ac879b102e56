"""Checkpoints: a full disk, one that is read-only, a folder that is not there; the fit warns, and goes on."""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
from oracles.same_path import same
from programs.loops import mixture, points

from em_pyro import EM, CheckpointWarning


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
