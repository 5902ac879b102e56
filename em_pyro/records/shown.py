"""Records with a text of their own."""

from __future__ import annotations

from typing import Any


class Shown:
    """What a notebook shows at the end of a cell is what `print` shows, and not every field."""

    def _repr_pretty_(self, printer: Any, cycle: object) -> None:  # noqa: ARG002
        """Write the text, for IPython."""
        printer.text(str(self))
