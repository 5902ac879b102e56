"""The files of several fits, of which `checkpoint=` names one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from ..options import EVERY, check_file

Where = str | os.PathLike[str] | None


def asked(options: Mapping[str, Any]) -> tuple[Where, dict[str, Any]]:
    """Return the path in options of `EM`, and the other options.

    Raises:
        ParameterError: it is none.
    """
    others = dict(options)
    checkpoint: Where = others.pop("checkpoint", None)
    check_file(checkpoint, options.get("every", EVERY))
    return checkpoint, others


def of_fit(checkpoint: Where, word: str) -> Where:
    """Return the file of one fit: `fits.pt` becomes `fits-3-VVV.pt`; None stays None."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-{word}{path.suffix}")


def names_of(labels: Sequence[tuple[Any, str | None]]) -> list[str]:
    """Return a word for every value and variant, no two the same, and the same in another process."""
    found = list[str]()
    for place, (value, variant) in enumerate(labels):
        said = [value if isinstance(value, (str, int, float)) else f"place-{place}"]
        said += [] if variant is None else [variant]
        name = "-".join(re.sub(r"[^\w.+-]+", "_", str(word)) for word in said)
        found.append(name if name not in found else f"{name}-place-{place}")
    return found


def check_none(what: str, options: Mapping[str, Any]) -> None:
    """Refuse a file where fits are too many and too short for one each.

    Raises:
        ParameterError: there is one.
    """
    if options.get("checkpoint") is not None:
        raise ParameterError(
            f"{what}: expected no checkpoint, since there is a fit for every draw, got {options['checkpoint']!r}. "
            f"Leave it out, and draw fewer at a time, each with its own seed."
        )
