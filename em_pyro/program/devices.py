"""Where new tensors are made: beside the data.

While the data lie on a device other than torch's default one, every index, zero and draw that the library makes must
lie there too. The user's model is run as the user has set things up.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

Method = TypeVar("Method", bound=Callable[..., Any])
_BESIDE: ContextVar[torch.device | None] = ContextVar("_BESIDE", default=None)
_DRAWN: ContextVar[list[Any] | None] = ContextVar("_DRAWN", default=None)


@contextlib.contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Make new tensors on `device`; nothing changes, and nothing is slower, where that is torch's default."""
    if device == _usual():
        yield
        return
    token = _BESIDE.set(device)
    try:
        with device:
            yield
    finally:
        _BESIDE.reset(token)


@contextlib.contextmanager
def visiting() -> Iterator[None]:
    """Run code of the user within `beside`: its tensors are made where torch makes them.

    The context of the device is left and entered again. One of torch's default device inside it would not do: it moves
    what the user's code passes through `torch.as_tensor`.
    """
    device = _BESIDE.get()
    if device is None:
        yield
        return
    token = _BESIDE.set(None)
    device.__exit__(None, None, None)
    try:
        yield
    finally:
        device.__enter__()
        _BESIDE.reset(token)


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Put the global generators of all devices in use back as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        drawn = _DRAWN.get()
        before = None if drawn is None else [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        yield
        if drawn is not None and before is not None:
            after = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
            drawn.extend(
                device for device, *pair in zip(["cpu", *devices], before, after, strict=True) if not torch.equal(*pair)
            )


@contextlib.contextmanager
def drawing() -> Iterator[list[Any]]:
    """Yield a list in which the devices are noted on whose generators something is drawn meanwhile."""
    token = _DRAWN.set([])
    try:
        yield _DRAWN.get()  # type: ignore[misc]
    finally:
        _DRAWN.reset(token)


def at_hand(tensor: Tensor) -> bool:
    """Tell whether a number in it can be looked at without waiting for a device."""
    return tensor.is_cpu


def seeded(maker: Callable[..., Tensor], *args: Any, generator: torch.Generator, **kwargs: Any) -> Tensor:
    """Draw by `maker` (`torch.rand`, ...) where the generator is, so that a seed is a seed, and move the draw."""
    return maker(*args, generator=generator, device=generator.device, **kwargs).to(_usual())


def seed_generators(seed: int) -> None:
    """Seed torch's global generators, of the devices that are in use.

    `torch.manual_seed` formats the stack three times, for devices that nobody has started yet, and would seed them when
    they are: neither is wanted of a run that moves no generator.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def draw(fn: Distribution) -> Tensor:
    """Draw from a distribution. torch draws matrices that came out singular again by itself, and warns: no fault."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Singular sample detected", UserWarning)
        return fn.sample()


def there(method: Method) -> Method:
    """Decorate a method of something with an engine: new tensors are made where the program's are."""

    @wraps(method)
    def placed(self: Any, *args: Any, **kwargs: Any) -> Any:
        with beside(self.engine.program.device):
            return method(self, *args, **kwargs)

    return placed  # type: ignore[return-value]


def _usual() -> torch.device:
    """Return the device on which torch makes tensors now."""
    return torch.empty(0).device
