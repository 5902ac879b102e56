"""Which parameters torch maximises together, by which method, and whether to the maximum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace

from ...e_step.engine import Engine
from ...program.named import connected
from ...records.frozen import frozen
from .pattern import Pattern

NEWTON, LBFGS, ADAM = "Newton", "L-BFGS", "Adam"
SMALL = 32  # backward passes up to which a Hessian costs less than the iterations that it saves
MEDIUM = 300  # entries up to which a Hessian is computed at all
LARGE = 1000  # entries beyond which a block is treated as a network
HURRIED = {NEWTON: "few steps of Newton", LBFGS: "few steps of L-BFGS", ADAM: "some steps of Adam"}


@frozen
class Climb:
    """A block of parameters that `Q` does not separate.

    Attributes:
        names: the parameters.
        method: on the way to a maximum, Newton gives way to L-BFGS where the Hessian takes more than `SMALL` backward
            passes.
        exact: whether `Q` is maximised; it only has to rise.
        patterns: of the zeros of the Hessian, once one has been computed.
    """

    names: tuple[str, ...]
    method: str
    exact: bool = True
    patterns: list[Pattern] = field(default_factory=list, repr=False)

    @property
    def steady(self) -> bool:
        """Whether a rate of EM says what is left: near its end, steps of Newton keep the rate (Lange 1995)."""
        return self.exact or self.method == NEWTON

    @property
    def caveat(self) -> str:
        """What the plan says of an M-step that is not a maximum."""
        return "" if self.exact else f"{HURRIED[self.method]}: Q rises, but is not maximised (generalised EM)"


def climbs_of(
    engine: Engine, names: Sequence[str], alternated: Sequence[str], asked: Sequence[str]
) -> tuple[Climb, ...]:
    """Split parameters into blocks that `Q` separates, and choose a method for each.

    Args:
        engine: of the program.
        names: what torch maximises.
        alternated: parameters with a maximum under the others alone. Those that meet one of `names` are climbed with
            it, if there are few enough: conditional maxima creep along a ridge.
        asked: those of `names` that the user wants from torch: `Q` is maximised where a block has no others.
    """
    meetings, climbs = _meetings(engine), list[Climb]()
    for group in connected([*names, *alternated], meetings):
        alone = [name for name in group if name in names]
        joint = climb_of(engine, group)
        if alone and joint.method == NEWTON:
            climbs.append(replace(joint, exact=all(name in asked for name in alone)))
        elif alone:
            climbs += [climb_of(engine, some) for some in connected(alone, meetings)]
    return tuple(climbs)


def climb_of(engine: Engine, names: Sequence[str]) -> Climb:
    """Return the method for one block, by its number of entries, and whether it is a network.

    A module with more than one weight matrix has hidden units. Its `Q` is not concave, and of little worth far from the
    weights of the E-step: some steps in every M-step lead farther than one of its many maxima.
    """
    weights = [engine.program.parameters[name] for name in names]
    hidden = sum(weight.kind == "module" and weight.initial.dim() > 1 for weight in weights) > 1
    size = sum(weight.initial.numel() for weight in weights)
    if hidden or size > LARGE:
        return Climb(tuple(names), ADAM, exact=False)
    return Climb(tuple(names), NEWTON if size <= MEDIUM else LBFGS, exact=False)


def joint_climb(engine: Engine, names: Sequence[str]) -> Climb:
    """Return one climb of some parameters together, to the maximum."""
    size = sum(engine.program.parameters[name].initial.numel() for name in names)
    return Climb(tuple(names), NEWTON if size <= MEDIUM else LBFGS)


def _meetings(engine: Engine) -> list[frozenset[str]]:
    """Sets of parameters that enter `Q` together."""
    found = [factor.parameters for factor in engine.leaders.values()]
    if engine.recording is not None:
        return found + list(engine.recording.graph.depends.values())
    reaches = engine.recognition.reaches
    return found + [reaches.get(name, frozenset()) for name in (*engine.moving, *engine.open_priors)]
