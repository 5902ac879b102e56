"""A model in a file: `FILE.py:NAME` is a function there. The file is a program, and it is run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ModelError

MARK = "__model_file__"
"""What a module has that is a model's file: the name that the user gave it."""


def model_in(spec: str) -> Callable[..., Any]:
    """Run a file, and return the model of a name in it; modules beside it can be imported.

    Raises:
        ModelError: there is no such file or name, the file raises an error, or the name is no function.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not name:
        raise ModelError(f"model: expected FILE.py:NAME, got {spec!r}.")
    if not path.is_file():
        raise ModelError(f"{file}: expected a Python file with the model, got none. Check the name.")
    made = importlib.util.spec_from_file_location(path.stem, path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    setattr(module, MARK, file)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        made.loader.exec_module(module)
    except Exception as error:
        where = f"{file}, line {error.lineno}" if isinstance(error, SyntaxError) else raised_in(error) or file
        said = error.msg if isinstance(error, SyntaxError) else error
        raise ModelError(f"{where}: expected a file that runs, got {type(error).__name__}: {said}") from error
    finally:
        sys.path.pop(0)
    model = getattr(module, name, None)
    if not callable(model):
        known = ", ".join(
            n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == path.stem
        )
        raise ModelError(f'{file}: expected a function "{name}", got none. It has: {known or "no functions"}.')
    return model


def raised_in(error: BaseException) -> str:
    """Return the model's file and the last line of it that an error passed through, empty if it passed through none."""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_globals.get(MARK)
        if file is not None:
            found = f"{file}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found
