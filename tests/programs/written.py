"""A program that is written out as text, so that one that fails can be read and run by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

GLOBALS = {
    "torch": torch, "pyro": pyro, "dist": dist, "poutine": poutine, "constraints": constraints, "tensor": torch.tensor
}  # fmt: skip
"""What the text of a program may name."""


@dataclass(frozen=True)
class Written:
    """A model and its arguments.

    Attributes:
        seed: which it is.
        text: of the function `model`.
        args: by name; with a row for each row of the outermost plate, where there is one.
        spelt: text of the same law where what the program integrates or sums out itself has a site.
        dtype: of its data, parameters and constants.
    """

    seed: int
    text: str
    args: dict[str, Tensor] = field(repr=False)
    spelt: str = ""
    dtype: torch.dtype = torch.float64

    @property
    def model(self) -> Callable[..., Any]:
        """The model function."""
        return compiled(self.text)

    @property
    def plain(self) -> Callable[..., Any]:
        """The model with a density for every latent."""
        return compiled(self.spelt or self.text)

    def script(self) -> list[str]:
        """Return the lines of a script up to where something is asked of the model."""
        lines = [f"    {name}=tensor({value.tolist()})," for name, value in self.args.items()]
        head = [f"# seed {self.seed}", f"torch.set_default_dtype({self.dtype})", self.text]
        return [*head, "args = dict(", *lines, ")"]

    def __str__(self) -> str:
        """Return the script."""
        return "\n".join(self.script())


def compiled(text: str) -> Callable[..., Any]:
    """Return the function `model` that a text defines."""
    names = dict(GLOBALS)
    exec(compile(text, "<random program>", "exec"), names)
    return names["model"]
