"""The indices that a plate hands out: made when a program first uses them, which most never do.

Of ten million rows they are 80 MB, and a plate makes them anew in every run of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Indices(Tensor):
    """`torch.arange(size)` without memory of its own until an operation, or NumPy, asks for a value."""

    _made: Tensor | None

    @staticmethod
    def __new__(cls, size: int, device: torch.device) -> Indices:
        """Take the number of rows, and where they are."""
        made: Indices = torch.Tensor._make_wrapper_subclass(cls, (size,), dtype=torch.long, device=device)
        made._made = None
        return made

    def made(self) -> Tensor:
        """The indices themselves, the same tensor each time."""
        if self._made is None:
            self._made = torch.arange(len(self), device=self.device)
        return self._made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation on the indices themselves."""
        args, kwargs = tree_map_only(Indices, Indices.made, (args, dict(kwargs or {})))
        return func(*args, **kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Show what they stand for."""
        return f"arange({len(self)})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy or store the indices themselves."""
        return self.made().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Copy the indices themselves."""
        return self.made().clone()

    def numpy(self, *, force: bool = False) -> Any:
        """As `torch.Tensor.numpy`."""
        return self.made().numpy(force=force)

    def tolist(self) -> Any:
        """As `torch.Tensor.tolist`."""
        return self.made().tolist()

    def data_ptr(self) -> int:
        """As `torch.Tensor.data_ptr`."""
        return self.made().data_ptr()


def handed_out(rows: Any) -> Tensor:
    """What Pyro's `_Subsample` draws: all indices where the plate takes all its rows."""
    if rows.use_cuda or (rows.subsample_size is not None and rows.subsample_size < rows.size):
        return rows.sample()  # type: ignore[no-any-return]
    return Indices(rows.size, torch.device(rows.device))
