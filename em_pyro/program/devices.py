"""Where new tensors are made: beside the data.

While the data lie on a device other than torch's default one, every index, zero and draw that the library makes must
lie there too. The user's model is run as the user has set things up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

MAKERS = frozenset(
    {
        torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.rand,
        torch.randint, torch.randn, torch.tensor, torch.triu_indices, torch.zeros,
    }
)  # fmt: skip


Method = TypeVar("Method", bound=Callable[..., Any])
_VISITING: ContextVar[bool] = ContextVar("_VISITING", default=False)


class _Beside(TorchFunctionMode):
    """Make tensors on a device unless another is asked for; draw where the generator is, and move the draw."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function of torch."""
        kwargs = kwargs or {}
        if func not in MAKERS or kwargs.get("device") is not None or _VISITING.get():
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs).to(self.device)
        return func(*args, **{**kwargs, "device": self.device})


def beside(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make new tensors on `device`; nothing changes where that is torch's default."""
    return contextlib.nullcontext() if device.type == torch.get_default_device().type else _Beside(device)


@contextlib.contextmanager
def visiting() -> Iterator[None]:
    """Within `beside`, run code of the user, whose tensors are made where torch makes them."""
    token = _VISITING.set(True)
    try:
        yield
    finally:
        _VISITING.reset(token)


def there(method: Method) -> Method:
    """Decorate a method of something with an engine: new tensors are made where the program's are."""

    @wraps(method)
    def placed(self: Any, *args: Any, **kwargs: Any) -> Any:
        with beside(self.engine.program.device):
            return method(self, *args, **kwargs)

    return placed  # type: ignore[return-value]
