"""Small, awkward, correct programs: plain Pyro functions that the laws are run over.

Parameter values are distinct and generic, so that nothing starts at a saddle, and every program has at most a few
thousand joint states, so that `oracle.brute_force` can visit all of them.

    @pytest.mark.parametrize("name", NAMES)
    def test_law(name): case = build(name); ... case.model(*case.args)
"""

from programs.case import REGISTRY, Case
from programs.small import (
    chains,
    hmm,
    masks,
    mixtures,
    modules,
    plates,
    priors,
    regressions,
    shapes,
    tables,
    weights,
)

__all__ = ["HIDDEN", "MODULES", "NAMES", "Case", "build"]

MODULES = (
    mixtures,
    shapes,
    plates,
    chains,
    hmm,
    masks,
    weights,
    priors,
    regressions,
    modules,
    tables,
)
"""Where the programs are written, by what is awkward about them."""

NAMES = tuple(REGISTRY)
"""Names of all programs."""

HIDDEN = tuple(name for name in NAMES if name.startswith("hmm_"))
"""Those with states inside a site. EM's `Q` counts them, brute force over the latents does not: equal slopes only."""


def build(name: str) -> Case:
    """Build the program of that name with its data, under the current default dtype."""
    return REGISTRY[name]()
