"""Answers for another program, as JSON: into a file, or to standard output, where all else goes to standard error."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STANDARD = "-"  # in place of a file's name


@contextlib.contextmanager
def report(path: Path | None) -> Iterator[None]:
    """Print for those who read: beside the answer, where that goes to standard output."""
    with contextlib.redirect_stdout(sys.stderr if str(path) == STANDARD else sys.stdout):
        yield


def save(path: Path, answer: Any) -> None:
    """Write an answer; what is infinite or no number is null, for which JSON has no other word."""
    text = json.dumps(_plain(answer), indent=2, allow_nan=False)
    if str(path) == STANDARD:
        print(text)
        return
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\nAnswer: {path}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
