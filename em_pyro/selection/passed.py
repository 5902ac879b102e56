"""Options that are passed on to `EM`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..em import EM
from ..errors import ParameterError

KNOWN = tuple(name for name in inspect.signature(EM).parameters if name != "model")


def check_known(what: str, options: Mapping[str, Any]) -> None:
    """Refuse what is no option of `EM`: an argument of the model, mostly, that was passed by its name.

    Raises:
        ParameterError: naming the first.
    """
    for name in options:
        if name not in KNOWN:
            raise ParameterError(
                f'{what}: expected options of EM, {", ".join(KNOWN)}, got "{name}". Arguments of the model go by name '
                f"into model_kwargs={{...}}."
            )
