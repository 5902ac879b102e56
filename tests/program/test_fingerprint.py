"""What a model sees is looked at anew by every call: data from outside its arguments may change between them."""

import os
import sys
import sysconfig
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from pyro.nn import PyroModule
from torch import Tensor, tensor

from em_pyro import EM, DataError
from em_pyro.program.changes.fingerprint import libraries

X = [0.0, 0.5, 0.2, 3.0, 3.5, 2.9, 0.1]
SHIFT = 100.0

BOX: dict[str, Any] = {}
LEVEL = 0.0


def rates(x: Tensor, level: float = 0.0) -> None:
    """Mix two Normals, their locations about a level."""
    loc = pyro.param("loc", tensor([-1.0, 2.0], dtype=x.dtype))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=x.dtype)))
        pyro.sample("x", dist.Normal(loc[z] + level, 1.0), obs=x)


def evidence(x: Tensor, level: float = 0.0) -> float:
    """Log evidence of `rates` at the values in the store, by hand."""
    loc = pyro.param("loc").detach() + level
    return float((dist.Normal(loc, 1.0).log_prob(x[:, None]) + tensor(0.5).log()).logsumexp(-1).sum())


def _global() -> tuple[Callable[[], None], Callable[[], None], Callable[[], Tensor]]:
    BOX["x"] = tensor(X)

    def move() -> None:
        BOX["x"] = BOX["x"] + SHIFT

    return lambda: rates(BOX["x"]), move, lambda: BOX["x"]


def _in_place() -> tuple[Any, Any, Any]:
    x = tensor(X)
    return lambda: rates(x), lambda: x.add_(SHIFT), lambda: x


def _uncounted() -> tuple[Any, Any, Any]:
    array = np.array(X)

    def move() -> None:
        array[:] += SHIFT

    return lambda: rates(torch.as_tensor(array)), move, lambda: tensor(array)


def _helper() -> tuple[Any, Any, Any]:
    held = [[tensor(X)]]

    def data() -> Tensor:
        return held[0][0]

    def move() -> None:
        held[0][0] = held[0][0] + SHIFT

    return lambda: rates(data()), move, data


def _object() -> tuple[Any, Any, Any]:
    class Study:
        def __init__(self) -> None:
            self.x = tensor(X)

        def model(self) -> None:
            rates(self.x)

    study = Study()
    return study.model, lambda: setattr(study, "x", study.x + SHIFT), lambda: study.x


def _slots() -> tuple[Any, Any, Any]:
    class Study:
        __slots__ = ("x",)

        def __call__(self) -> None:
            rates(self.x)

    study = Study()
    study.x = tensor(X)
    return study, lambda: setattr(study, "x", study.x + SHIFT), lambda: study.x


def _class() -> tuple[Any, Any, Any]:
    class Settings:
        x = tensor(X)

    return lambda: rates(Settings.x), lambda: setattr(Settings, "x", Settings.x + SHIFT), lambda: Settings.x


def _buffer() -> tuple[Any, Any, Any]:
    class Module(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("x", tensor(X))

        def forward(self) -> None:
            rates(self.x)

    module = Module()
    return module, lambda: module.x.add_(SHIFT), lambda: module.x


def _bound() -> tuple[Any, Any, Any]:
    held = SimpleNamespace(x=tensor(X))
    model = partial(lambda held: rates(held.x), held)
    return model, lambda: setattr(held, "x", held.x + SHIFT), lambda: held.x


def _conditioned() -> tuple[Any, Any, Any]:
    data = {"x": tensor(X)}

    def model() -> None:
        loc = pyro.param("loc", tensor([-1.0, 2.0]))
        with pyro.plate("rows", len(X)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0))

    def move() -> None:
        data["x"] = data["x"] + SHIFT

    return pyro.poutine.condition(model, data=data), move, lambda: data["x"]


def _property() -> tuple[Any, Any, Any]:
    hidden: dict[str, Tensor] = {"x": tensor(X)}

    class Reader:
        x = property(lambda self: hidden["x"])

    reader = Reader()

    def move() -> None:
        hidden["x"] = hidden["x"] + SHIFT

    return lambda: rates(reader.x), move, lambda: hidden["x"]


PLACES = (_global, _in_place, _uncounted, _helper, _object, _slots, _class, _buffer, _bound, _conditioned, _property)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.strip("_"))
def test_data_from_outside_the_arguments_are_read_anew(place: Callable[[], tuple[Any, Any, Any]]) -> None:
    """By `posterior`, `step` and `fit`, wherever the model has them from."""
    model, move, data = place()
    em = EM(model)
    fit = em.fit()
    move()
    assert em.posterior().log_evidence == pytest.approx(evidence(data()), rel=IDENTITY)
    with pytest.raises(DataError, match="has changed"):
        _ = fit.posterior
    move()
    before = evidence(data())
    assert -em.step() == pytest.approx(before, rel=IDENTITY)
    move()
    assert em.fit().log_likelihood == pytest.approx(evidence(data()), rel=IDENTITY)
    assert float(pyro.param("loc").detach().min()) > SHIFT


@pytest.mark.parametrize("read", [lambda held: next(held), lambda held: held.read()], ids=["iterator", "reader"])
def test_what_cannot_be_looked_into_is_run(read: Callable[[Any], Tensor]) -> None:
    """Data that come from where nothing is seen from outside (a file, a generator) are compared by a run."""
    held = [tensor(X)]

    def forever() -> Any:
        while True:
            yield held[0]

    source: Any = forever()
    source = source if read is not None and "next" in read.__code__.co_names else SimpleNamespace(read=lambda: held[0])
    em = EM(lambda: rates(read(source)))
    em.fit()
    held[0] = held[0] + SHIFT
    assert em.posterior().log_evidence == pytest.approx(evidence(held[0]), rel=IDENTITY)


def _queue(_: Path) -> tuple[Any, Any]:
    held = deque([0.0])
    return lambda: held[0], held.appendleft


def _environment(_: Path) -> tuple[Any, Any]:
    os.environ["LEVEL_OF_MINE"] = "0.0"
    return lambda: float(os.environ["LEVEL_OF_MINE"]), lambda v: os.environ.update(LEVEL_OF_MINE=str(v))


def _file(path: Path) -> tuple[Any, Any]:
    file = path / "level"
    file.write_text("0.0")
    return lambda: float(file.read_text()), lambda v: file.write_text(str(v))


def _computed_name(_: Path) -> tuple[Any, Any]:
    return lambda: getattr(sys.modules[__name__], "LEV" + "EL"), lambda v: globals().update(LEVEL=v)


def _inner_module(_: Path) -> tuple[Any, Any]:
    package, inner = ModuleType("package_of_mine"), ModuleType("package_of_mine.inner")
    package.inner, inner.level = inner, 0.0  # type: ignore[attr-defined]
    return lambda: package.inner.level, lambda v: setattr(inner, "level", v)


@pytest.mark.parametrize("place", [_queue, _environment, _file, _computed_name, _inner_module])
def test_a_step_looks_where_nothing_is_seen(place: Callable[[Path], tuple[Any, Any]], tmp_path: Path) -> None:
    """What the model reaches and cannot be read is run and compared by every step, too."""
    read, write = place(tmp_path)
    em, x = EM(lambda x: rates(x, read())), tensor(X)
    em.step(x)
    write(1.0)
    want = evidence(x, 1.0)
    try:
        assert -em.step(x) == pytest.approx(want, rel=IDENTITY)
    finally:
        write(0.0)


def test_packages_of_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyro may be installed below this environment, or stand in a clone: its own state is none of the model's."""
    nowhere = dict.fromkeys(sysconfig.get_paths(), str(Path(os.__file__).parent))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: nowhere)
    for path in (sys.path, []):
        monkeypatch.setattr(sys, "path", path)
        assert all(str(package.__file__).startswith(libraries()) for package in (torch, pyro, np))


def test_a_single_entry_of_a_longer_tensor() -> None:
    """A step through a tensor that leaves one row: it is contiguous, and its stride is not one."""
    x = tensor([0.5, *X])[:: len(X) + 1]
    assert x.stride() != (1,)
    assert EM(rates, max_steps=0, tol=0).fit(x).log_likelihood == pytest.approx(evidence(tensor([0.5])), rel=IDENTITY)
