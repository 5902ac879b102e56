"""Random programs whose continuous latents are jointly Gaussian given parameters and discrete latents.

As in `random_programs`, a seed becomes the text of an ordinary Pyro model with small data of its own: factor analysis,
effects of groups, chains of steps, values that are missing. `print(gaussian_program(17))` is a script.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from programs.draft import Draft
from programs.gaussian_groups import chain, effects
from programs.gaussian_rows import factors, holes
from programs.written import Written


@dataclass(frozen=True)
class GaussianProgram(Written):
    """A model and its arguments.

    Attributes:
        latents: names, or beginnings of names, of the continuous latents that are integrated.
        holes: continuous latents of `spelt`, in which every latent has a density: if `text` observes one exactly.
        continuous: what has to be said of latents that the rule would not integrate.
        rows: whether arguments have a row for each row of one plate, of which the objective is a sum.
    """

    latents: tuple[str, ...] = ()
    holes: tuple[str, ...] = ()
    continuous: dict[str, str] = field(default_factory=dict)
    rows: bool = False

    def script(self) -> list[str]:
        """Return the lines of a script up to where something is asked of the model."""
        return [*super().script(), f"continuous = {self.continuous}"]


def gaussian_program(seed: int) -> GaussianProgram:
    """Draw the program of that number; the same one on every machine."""
    rng = Random(seed)
    draft = Draft(rng, single=False, priors=rng.random() < 0.3)
    skeleton = rng.choices(list(SKELETONS), weights=list(SKELETONS.values()))[0]
    about = skeleton(draft)
    if draft.priors:
        about["rows"] = False
    args = {name: torch.tensor(value) for name, value in draft.args.items()}
    spelt = draft.text(draft.spelt) if draft.spelt else ""
    return GaussianProgram(seed, draft.text(draft.body), args, spelt, **about)


SKELETONS: dict[Callable[[Draft], dict[str, Any]], float] = {factors: 4, effects: 3, chain: 3, holes: 3}
"""Each with how often it is drawn."""
