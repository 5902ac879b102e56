"""Files that are damaged, foreign, newer or malicious: named, and nothing in them is run."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.fits import alike
from programs.loops import mixture, points

from em_pyro import EM, DataError, ParameterError, files, load

RAN: list[str] = []


class Bomb:
    """Something that runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Say so."""
        return RAN.append, ("ran",)


class Shell:
    """Another thing that runs."""

    def __init__(self, path: Path) -> None:
        """Take a path that is made by what runs."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a folder."""
        return os.mkdir, (str(self.path),)


def written(value: Any, **options: Any) -> bytes:
    """Return what `torch.save` makes of something."""
    into = io.BytesIO()
    torch.save(value, into, **options)
    return into.getvalue()


@pytest.mark.parametrize("where", ["alone", "inside", "in a tensor's place", "pickle", "older torch", "key"])
@pytest.mark.parametrize("what", ["function", "system"])
def test_a_malicious_file_runs_nothing(where: str, what: str, tmp_path: Path) -> None:
    """Whatever it claims to be."""
    path, trace = tmp_path / "fit.pt", tmp_path / "trace"
    EM(mixture, max_steps=2).fit(points()).save(path)
    honest, bomb = torch.load(path, weights_only=True), Bomb() if what == "function" else Shell(trace)
    place = next(pair for pair in honest["fit"]["of"] if pair[0] == "fitted")[1]["of"]
    if where == "in a tensor's place":
        place[0][1] = bomb
    content = {
        "alone": lambda: written(bomb),
        "inside": lambda: written({**honest, "more": [bomb]}),
        "in a tensor's place": lambda: written(honest),
        "pickle": lambda: pickle.dumps(bomb),
        "older torch": lambda: written({**honest, "more": bomb}, _use_new_zipfile_serialization=False),
        "key": lambda: written({**honest, (bomb,): 1}) if what == "system" else written([bomb]),
    }
    path.write_bytes(content[where]())
    with pytest.raises(DataError, match="expected a file of Fit.save"):
        load(path)
    assert RAN == []
    assert not trace.exists()


def test_the_bombs_go_off_elsewhere(tmp_path: Path) -> None:
    """Planted: read without `weights_only` they run."""
    (tmp_path / "bomb.pt").write_bytes(written(Shell(tmp_path / "trace")))
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "trace").exists()


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    """At any length."""
    path = tmp_path / "fit.pt"
    EM(mixture, max_steps=2).fit(points()).save(path)
    data = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="Pass the path that was given there, or write it anew"):
            load(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Or it was in what nobody reads: no number comes back as another one."""
    path = tmp_path / "fit.pt"
    fit = EM(mixture, max_steps=2).fit(points())
    fit.save(path)
    data, generator, refused = path.read_bytes(), np.random.default_rng(0), 0
    at = data.index(struct.pack("<d", float(fit.params["loc"][1])))
    for place in [at, at + 5, *generator.integers(0, len(data), 150)]:
        other = bytearray(data)
        other[int(place)] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(other))
        try:
            assert alike(load(path), fit)
        except DataError:
            refused += 1
    assert refused > 30


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    """Weights of a network, arrays of NumPy, an archive, a checkpoint, text."""
    path = tmp_path / "fit.pt"
    module = torch.nn.Linear(2, 2).state_dict()
    arrays, archive = io.BytesIO(), io.BytesIO()
    np.savez(arrays, a=np.zeros(3))
    with zipfile.ZipFile(archive, "w") as there:
        there.writestr("a.txt", "words")
    EM(mixture, max_steps=2, checkpoint=tmp_path / "other.pt").fit(points())
    checkpoint = (tmp_path / "other.pt").read_bytes()
    for data in (written(module), arrays.getvalue(), archive.getvalue(), checkpoint, b"x,y\n1,2\n", b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match="expected a file of Fit.save"):
            load(path)


def test_what_no_file_can_hold(tmp_path: Path) -> None:
    """Remarks that could not be read again are refused before the file is written; so is what is no path."""
    fit = EM(mixture, max_steps=2).fit(points())
    for remarks in ({"a": object()}, {"a": [np.float64(1.0)]}, {3: "a"}, "words"):
        with pytest.raises(ParameterError, match="Fit.save: expected remarks to be"):
            fit.save(tmp_path / "fit.pt", remarks=remarks)  # type: ignore[arg-type]
    assert not (tmp_path / "fit.pt").exists()
    with pytest.raises(ParameterError, match="expected the path of a file, got NoneType"):
        fit.save(None)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="expected kwargs to be a dict by name, got list"):
        load(tmp_path / "fit.pt", mixture, kwargs=[1])  # type: ignore[arg-type]


def test_a_newer_file_says_so(tmp_path: Path) -> None:
    """With the version that wrote it."""
    path = tmp_path / "fit.pt"
    files.write(path, "fit of em_pyro", 2, {"fit": {}})
    with pytest.raises(DataError, match=f"up to 1, got format 2, written by em_pyro {files.version()}"):
        load(path)


def _part(found: Any, name: str) -> Any:
    return next(pair for pair in found["fit"]["of"] if pair[0] == name)


SPOILT: dict[str, Callable[[Any], Any]] = {
    "no fit": lambda found: found.pop("fit"),
    "another record": lambda found: found["fit"].update({"is": "Bomb"}),
    "another record inside": lambda found: _part(found, "plan")[1].update({"is": "Engine"}),
    "a field too many": lambda found: found["fit"]["of"].append(["more", 1]),
    "a field too few": lambda found: found["fit"]["of"].pop(0),
    "words for values": lambda found: _part(found, "fitted").__setitem__(1, "words"),
    "no tensor": lambda found: _part(found, "fitted")[1]["of"][0].__setitem__(1, 3.0),
    "no outcome": lambda found: _part(found, "outcome").__setitem__(1, "splendid"),
    "no starts": lambda found: _part(found, "starts").__setitem__(1, None),
    "no path": lambda found: _part(found, "path").__setitem__(1, ("a", "b")),
    "no notes": lambda found: _part(found, "notes").__setitem__(1, (1, 2)),
}


@pytest.mark.parametrize("how", SPOILT)
def test_the_right_words_with_other_contents_are_damaged(how: str, tmp_path: Path) -> None:
    """What was read is looked at before it is a fit."""
    path = tmp_path / "fit.pt"
    EM(mixture, max_steps=2).fit(points()).save(path)
    found = torch.load(path, weights_only=True)
    SPOILT[how](found)
    path.write_bytes(written(found))
    with pytest.raises(DataError, match="expected a file of Fit.save, got a damaged one"):
        load(path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `OSError`, what was there before, and nothing beside it."""
    path = tmp_path / "fit.pt"
    fit = EM(mixture, max_steps=2).fit(points())
    fit.save(path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        EM(mixture, max_steps=5).fit(points()).save(path)
    assert alike(load(path), fit)
    assert [there.name for there in tmp_path.iterdir()] == ["fit.pt"]
