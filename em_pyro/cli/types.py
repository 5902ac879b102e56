"""What an option of the command line may be, each with the error that says so."""

from __future__ import annotations

import argparse
from pathlib import Path


def seconds(text: str) -> float:
    """Read a time above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds such as 2, got {text!r}")
    return value


def names(text: str) -> list[str]:
    """Read names of columns."""
    found = [name.strip() for name in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected each column once, got {text!r}")
    return found


def separator(text: str) -> str:
    """Read what is between cells: one character, a tab by name or as in Python."""
    known = {"\\t": "\t", "tab": "\t", "blank": " "}
    found = known.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character, tab or blank, got {text!r}")
    return found


def positive(text: str) -> int:
    """Read a number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1, 2, 3, ..., got {text!r}")
    return int(text)


def tolerance(text: str) -> float:
    """Read a number from zero to one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a small number such as 1e-8, got {text!r}")
    return value


def writable(text: str) -> Path:
    """Look at once whether a file can be written there, so that no fit is lost."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, got {text!r}")
    return path


def picture(text: str) -> Path:
    """Look whether a picture can be written there, by its ending."""
    if Path(text).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, .pdf or .svg, got {text!r}")
    return writable(text)
