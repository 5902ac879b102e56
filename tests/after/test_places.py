"""Tensors in a file keep their strides and their place in a line of the cache, by which products choose their order."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from programs.killed import cases
from torch import Tensor

from em_pyro import EM, files
from em_pyro.fit.checkpoint.journal import Journal

LINE = 64  # bytes
WHOLE = torch.arange(240, dtype=torch.float64)

PARTS: dict[str, Tensor] = {
    "a number": WHOLE[7],
    "whole": WHOLE,
    "a part": WHOLE[3:20],
    "turned": WHOLE.reshape(12, 20).mT,
    "a part, turned": WHOLE.reshape(12, 20)[3:9, 5:9].mT,
    "every other": WHOLE[5::2],
    "expanded": WHOLE[2:5].expand(4, 3),
    "single": WHOLE.float()[5:9],
    "truths": (WHOLE > 9)[3:30],
    "numbers": WHOLE.long()[6:9],
    "empty": WHOLE[4:4].reshape(0, 3),
    "one": WHOLE[9:10].reshape(1, 1),
}


def through(value: Any) -> Any:
    """Write and read."""
    file = io.BytesIO()
    torch.save(files.laid_out(value), file)
    file.seek(0)
    return files.taken_up(torch.load(file, weights_only=True), {})


def place(value: Tensor) -> tuple[Any, ...]:
    """Say where a tensor lies, as far as a product may see it."""
    return tuple(value.shape), value.stride(), value.data_ptr() % LINE if value.numel() else 0


@pytest.mark.parametrize("name", PARTS)
def test_a_tensor_comes_back_to_its_place(name: str) -> None:
    """With its strides, and nothing else of the storage that it was a part of."""
    value = PARTS[name]
    kept = files.laid_out(value)
    assert kept.data_ptr() != value.data_ptr() or not value.numel(), "what is written later is what was there"
    for found in (kept, through(value)):
        assert torch.equal(found, value)
        assert found.dtype == value.dtype
        assert place(found) == place(value)
        extent = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
        assert found.untyped_storage().nbytes() < extent * value.element_size() + LINE


@pytest.mark.parametrize("name", ["several", "gaussian"])
def test_a_fit_goes_on_from_the_same_places(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that was one of a batch, and loadings that are a part of their coefficients, are so afterwards."""
    model, args, options, _ = cases()[name]()
    path, seen, over, at = tmp_path / "fit.pt", list[Any](), list[bool](), Journal.at

    def cut(self: Journal, problem: Any, here: Any, step: int, state: Any, **more: Any) -> None:
        seen.append([place(value) for value in here.values()])
        at(self, problem, here, step, state, **more)
        if any(beside for _, _, beside in seen[-1]) and not over:
            over.append(True)
            raise RuntimeError("ended here")

    monkeypatch.setattr(Journal, "at", cut)
    with pytest.raises(RuntimeError, match="ended here"):
        EM(model, checkpoint=path, **options | {"every": 1}).fit(*args)
    before, count = seen[-1], len(seen)
    EM(model, checkpoint=path, **options | {"every": 1}).fit(*args)
    assert seen[count] == before
