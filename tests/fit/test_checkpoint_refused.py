"""Checkpoints: the file of another fit, and what is no checkpoint, are refused by name and left as they are."""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.loops import equal, mixture, points, stored
from torch import Tensor

from em_pyro import EM, DataError, EMError, ModelError, ParameterError


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


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """It is refused before anything is read."""
    with pytest.raises(
        ParameterError, match="expected checkpoint to be None or the path of a file, got that of a folder"
    ):
        EM(mixture, checkpoint=tmp_path)
