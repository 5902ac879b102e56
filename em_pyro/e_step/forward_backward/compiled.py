"""Which recursion a chain runs through, of discrete or Gaussian latents: loops compiled by numba, or torch.

The choice is made when a program is planned, and the plan says which it was. Numba is an extra
(`pip install em-pyro[fast]`). Where it is not installed, for data on other devices and for chains so short that
compiling would not pay, torch runs; the two agree to rounding. To choose by hand, plan inside `recursion`:

    with em_pyro.recursion("torch"):
        fit = em.fit(y)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch

from ...errors import ParameterError, PlanError
from . import recursions

LARGE = 20_000  # states x steps x rows from which compiling pays: the scan takes some milliseconds an iteration
# Sums may be reordered and divisions become products: all that vector units need. Infinities and nan are kept.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_asked: ContextVar[str] = ContextVar("recursion", default="auto")


@contextlib.contextmanager
def recursion(method: str) -> Iterator[None]:
    """Choose the recursion of every chain that is planned inside.

    Args:
        method: "numba", "torch", or "auto" (the default everywhere).

    Raises:
        ParameterError: another word.
    """
    if method not in ("auto", "numba", "torch"):
        raise ParameterError(f'recursion: expected "auto", "numba" or "torch", got {method!r}. Choose one of them.')
    token = _asked.set(method)
    try:
        yield
    finally:
        _asked.reset(token)


def choose(entries: int, device: torch.device, against: str = "") -> tuple[str, str]:
    """Return "numba" or "torch", and why.

    Args:
        entries: states x steps x rows of the chain, or numbers in the blocks of its precision.
        device: where the data are.
        against: why compiling would not pay, whatever its length; empty if it would.

    Raises:
        PlanError: numba was asked for and cannot be had.
    """
    asked = _asked.get()
    if asked == "torch":
        return "torch", "you asked for it"
    if device.type != "cpu":
        return "torch", f"the data are on {device.type}"
    if asked == "auto" and (against or entries < LARGE):
        return "torch", against or "the chain is short"
    found = _compiled()
    if isinstance(found, str):
        if asked == "numba":
            raise PlanError(f"recursion: expected numba, got {found}. Install the extra: pip install em-pyro[fast].")
        return "torch", found
    return "numba", "you asked for them" if asked == "numba" else "numba is installed"


def functions(rows: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the compiled filter and smoother for so many rows."""
    found = _compiled()
    assert not isinstance(found, str), found
    return found[rows >= recursions.FEW]


@lru_cache
def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Another plain loop over arrays, to be compiled at its first call; only where `choose` has said "numba"."""
    made = _compiler()
    assert not isinstance(made, str), made
    return made(function)


@lru_cache(maxsize=1)
def _compiled() -> tuple[tuple[Callable[..., None], Callable[..., None]], ...] | str:
    """Filters and smoothers for few rows and for many, to be compiled at their first call; or what is in the way."""
    made = _compiler()
    if isinstance(made, str):
        return made
    few, many = recursions.BY_ROWS
    return (made(few[0]), made(few[1])), (made(many[0]), made(many[1]))


def _compiler() -> Callable[[Callable[..., None]], Callable[..., None]] | str:
    """What has loops compiled; or what is in the way."""
    try:
        import numba
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        return "numba is not installed" if missing else f"numba cannot be imported ({error})"

    def made(function: Callable[..., None]) -> Any:
        options: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy", "nogil": True}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither beside the source nor in the home of the user can anything be written
            return numba.njit(**options)(function)

    return made
