"""What units are made of: the sites and factors of a program that no unit has taken yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, replace

from ..program.named import Named
from ..program.site import Site
from ..reading.reading import Recognition
from ..records.frozen import frozen
from .contraction.schedule import Factor
from .several.stack import Stack
from .units import Unit

CHAIN = 8  # latents from which a chain is a unit; fewer are summed out one by one


@frozen
class Left:
    """What is left of a program.

    Attributes:
        run: its sites in one run, with the values and the known arguments.
        recognition: what the probes found.
        owners: for every latent, the plates around its site.
        sizes: of all latents and plates, in their order.
        plate: the largest, whose rows may be split.
        alive: entries of latents that reach an observation.
        taken: sites of the run that units have taken.
        stacks: compiled sites, those together that are the same function.
        factors: all that is to be contracted, by name.
        apart: the same while every site had one of its own: what a posterior looks at.
        replayed: of these, what the model itself computes.
        constants: log-densities of replayed sites that no parameter enters.
    """

    run: Mapping[str, Site] = field(repr=False)
    recognition: Recognition = field(repr=False)
    owners: Mapping[str, frozenset[str]]
    sizes: Mapping[str, int] = field(repr=False)
    plate: str | None
    alive: Mapping[str, Named] = field(repr=False)
    taken: frozenset[str] = frozenset()
    stacks: tuple[Stack, ...] = ()
    factors: Mapping[str, Factor] = field(default_factory=dict)
    apart: Mapping[str, Factor] = field(default_factory=dict)
    replayed: Mapping[str, Factor] = field(default_factory=dict)
    constants: Mapping[str, Named] = field(default_factory=dict, repr=False)

    def taking(self, sites: Collection[str], *made: Factor, constants: Mapping[str, Named] | None = None) -> Left:
        """Take sites out, and put in the factors that a unit has made of them, in their places where names agree."""
        gone, new = set(sites), {factor.name: factor for factor in made}
        factors = {n: new.get(n, factor) for n, factor in self.factors.items() if n in new or n not in gone}
        stacks = []
        for stack in self.stacks:
            every = tuple(factor for factor in stack.every if factor.name not in gone)
            if every:
                stacks.append(stack if len(every) == len(stack.every) else Stack(every, stack.same))
        return replace(
            self,
            taken=self.taken | gone,
            stacks=tuple(stacks),
            factors=factors | new,
            replayed={n: factor for n, factor in self.replayed.items() if n not in gone},
            constants={**self.constants, **(constants or {})},
        )


def alone(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take every stack that is left as a unit."""
    return left.stacks, replace(left, stacks=())
