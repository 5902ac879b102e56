"""Decide for every parameter how it is maximised, and say why.

Recognition is necessary, not sufficient. A parameter has a closed form only if all its uses are at sites of one kind of
family, its constraint allows all values that the argument may take, and the parameters of its block have a joint
maximum in closed form; where they have only conditional ones, the block is swept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from ..e_step.engine import Engine
from ..errors import ParameterError, PlanError
from ..program.named import connected, listed
from ..records.frozen import frozen
from ..records.shown import Shown
from .ascent.climbs import Climb, climbs_of
from .pooling import Refused
from .regression.steps import STEP, WHY, Steps
from .solvers import Solver, by_steps, solver_of
from .uses import (
    CONDITIONAL,
    Block,
    Use,
    because,
    because_newton,
    entering,
    in_coordinates,
    kind_of,
    role_of,
    terms_of,
    uses_of,
)

Choice = str | Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Line:
    """What happens to one parameter in every M-step."""

    parameter: str
    how: str  # "closed form" | "Newton" | "Newton step" | "swept" | "torch" | "fixed" | "callable"
    role: str  # family and argument, "Binomial.probs"
    sites: tuple[str, ...]
    why: str

    @property
    def closed_form(self) -> bool:
        """Whether its maximum, under the others, is found to rounding without an optimiser of torch."""
        return self.how in ("closed form", "Newton", "swept")


@frozen
class Plan(Shown):
    """How each parameter is maximised, and how the loop runs. Print it."""

    lines: Mapping[str, Line]
    solvers: tuple[Solver, ...] = field(repr=False)
    swept: tuple[str, ...]  # parameters whose solvers are repeated until `Q` is stationary
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    callables: Mapping[str, Callable[[Any, Tensor], Tensor]] = field(default_factory=dict, repr=False)
    climbs: tuple[Climb, ...] = field(default=(), repr=False)  # blocks that torch maximises

    def __getitem__(self, parameter: str) -> Line:
        """Return what happens to one parameter."""
        if parameter not in self.lines:
            raise ParameterError(f'Plan: expected one of {sorted(self.lines)}, got "{parameter}".')
        return self.lines[parameter]

    @property
    def torch(self) -> tuple[str, ...]:
        """Parameters that torch maximises."""
        return tuple(n for n, line in self.lines.items() if line.how == "torch")

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Parameters that move."""
        return tuple(n for n, line in self.lines.items() if line.how != "fixed")

    @cached_property
    def maximised(self) -> tuple[str, ...]:
        """Parameters that move, but for those with an M-step of the user's own: what that returns stands."""
        return tuple(n for n, line in self.lines.items() if line.how not in ("fixed", "callable"))

    @cached_property
    def steps(self) -> tuple[Steps, ...]:
        """Solvers that take a step where others maximise."""
        return tuple(cast(Steps, solver) for solver in self.solvers if solver.how == STEP)

    @property
    def held(self) -> Plan:
        """The same with torch parameters held where they are."""
        return replace(self, climbs=(), swept=tuple(n for n, line in self.lines.items() if line.how == "swept"))

    def __str__(self) -> str:
        """Return a table with a line for each parameter, then the notes."""
        rows = [("parameter", "M-step", "argument", "sites", "why")]
        for line in self.lines.values():
            sites = listed(line.sites)
            rows.append((line.parameter, line.how, line.role, sites, line.why))
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        text = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows]
        text.insert(1, "  ".join("-" * w for w in [*widths, 3]))
        text += [f"{note}" for note in self.notes]
        text.append(f"planned in {self.seconds:.2f} s")
        return "\n".join(text)


def choose(
    engine: Engine, options: Mapping[str, Choice], withdrawn: Mapping[str, str], *, at_hand: bool = True
) -> Plan:
    """Choose a solver for every parameter of `engine`.

    Args:
        engine: the program, recognised and laid out.
        options: the user's `m_step` by parameter.
        withdrawn: parameters whose closed form failed a check, with the reason.
        at_hand: whether an M-step is given all rows; else it is given what adds up over them.

    Raises:
        ParameterError: an option names no parameter, or is none of those that exist.
        PlanError: "closed" was asked for where there is no closed form.
        ModelError: the scale of a prior moves, so that the joint density has no bound.
    """
    parameters = engine.program.parameters
    _check(options, engine)
    uses = uses_of(engine)
    forced = {n: c if isinstance(c, str) else "callable" for n, c in options.items() if c != "closed"}
    solvers, reasons = solved(engine, uses, forced, withdrawn, at_hand=at_hand)
    owner = {name: solver for solver in solvers for name in solver.parameters}
    lines = {}
    for name in parameters:
        role, sites = role_of(uses[name], engine, name)
        how, why = _forced(forced.get(name)) if name in forced else _found(engine, name, uses[name], owner.get(name))
        if how == "torch" and name not in forced:
            why = reasons.get(name, "no closed form")
        if options.get(name) == "closed":
            _check_closed(name, how, why)
        why += in_coordinates(engine, name) if how != "closed form" else ""
        lines[name] = Line(name, how, role, sites, why)
    alternated = [name for name, line in lines.items() if line.how == "swept"]
    torch = [name for name, line in lines.items() if line.how == "torch"]
    climbs = climbs_of(engine, torch, alternated, [name for name in torch if name in forced])
    lines |= {n: replace(lines[n], why=_why_climbed(lines, c, n)) for c in climbs if not c.exact for n in c.names}
    calls = {name: choice for name, choice in options.items() if callable(choice)}
    climbed = {name for climb in climbs for name in climb.names}
    swept = tuple(name for name in alternated if name not in climbed)
    return Plan(lines, tuple(solvers), swept, callables=calls, climbs=climbs)


def _check_closed(name: str, how: str, why: str) -> None:
    """Raise where a closed form was asked for and there is none."""
    if how == "torch":
        raise PlanError(
            f'm_step["{name}"]: expected a closed form, but there is none: {why}. Choose "torch" or leave it out.'
        )
    if how == STEP:
        raise PlanError(f'm_step["{name}"]: expected a closed form, but {why}. Leave it out, or fit all rows at once.')


def _why_climbed(lines: Mapping[str, Line], climb: Climb, name: str) -> str:
    """What the plan says of a parameter that is climbed, and perhaps maximised under the others first."""
    if lines[name].how == "torch":
        return f"{lines[name].why}; {climb.caveat}"
    others = listed([f'"{other}"' for other in climb.names if lines[other].how == "torch"])
    return f"{lines[name].why.split(CONDITIONAL)[0]}: in closed form with {others} held, then climbed with it (Q rises)"


def _check(options: Mapping[str, Choice], engine: Engine) -> None:
    """Refuse options for what is no parameter, options that do not exist, and a prior whose scale is not fixed."""
    parameters = engine.program.parameters
    for name, choice in options.items():
        if name not in parameters:
            raise ParameterError(
                f'm_step: expected names among {sorted(parameters)}, got "{name}". Use the name given to pyro.param.'
            )
        if not callable(choice) and choice not in ("torch", "closed", "fixed"):
            raise ParameterError(
                f'm_step["{name}"]: expected "torch", "closed", "fixed" or a callable, got {choice!r}. '
                f"Choose one of them."
            )
    for found in engine.recognition.unbounded:
        if "fixed" not in (options.get(found.site), options.get(found.parameter)):
            raise found.refusal()


def _forced(how: str | None) -> tuple[str, str]:
    """What the plan says of a parameter that the user decided on."""
    return {
        "callable": ("callable", "your own M-step, held to a Q that does not fall"),
        "fixed": ("fixed", "kept at its start value, as you asked"),
    }.get(how or "", ("torch", "as you asked"))


def _found(engine: Engine, name: str, uses: Sequence[Use], solver: Solver | None) -> tuple[str, str]:
    """What the plan says of a parameter, by its solver."""
    if solver is None:
        return "torch", ""
    if solver.swept:
        return "swept", solver.swept
    if solver.how == STEP:
        return STEP, WHY
    if solver.how == "Newton":
        return solver.how, because_newton(uses, solver.parameters, name)
    return solver.how, because(uses, engine, name)


# ---- blocks of parameters that are solved together ------------------------------------------------------------------


def solved(
    engine: Engine,
    uses: Mapping[str, Sequence[Use]],
    forced: Mapping[str, str],
    withdrawn: Mapping[str, str],
    *,
    at_hand: bool,
) -> tuple[list[Solver], dict[str, str]]:
    """Find a solver for every block that has one; and the reasons of the parameters that have none.

    A block is asked with all that it would take in. Where it is refused, those that it had drawn in have their own
    kinds back, and are asked again.
    """
    reasons, kinds, solvers = dict(withdrawn), dict[str, str](), list[Solver]()
    for name, parameter in engine.program.parameters.items():
        try:
            if name not in reasons:
                kinds[name] = kind_of(engine, parameter, uses[name])
        except Refused as reason:
            reasons[name] = str(reason)
    drawn = draw_in(engine, kinds)
    blocks = blocks_of(engine, kinds)
    while blocks:
        names = blocks.pop()
        block = block_of(engine, names, kinds[names[0]], uses, forced)
        try:
            if block.solved:
                kept = not at_hand and any(factor.kept is not None for factor in terms_of(engine, names))
                solvers.append(by_steps(engine, block) if kept else solver_of(block.kind).of(engine, block))
        except Refused as reason:
            back = {name: drawn.pop(name) for name in names if name in drawn}
            reasons |= {name: str(reason) for name in names if name not in back}
            kinds |= back
            blocks += blocks_of(engine, back)
    return solvers, reasons


def block_of(
    engine: Engine, names: Sequence[str], kind: str, uses: Mapping[str, Sequence[Use]], forced: Mapping[str, str]
) -> Block:
    """Gather what is to be known of the parameters of a block, and of those that meet them and are not solved."""
    inside = set(names).union(*(entering(engine, factor) for factor in terms_of(engine, names)))
    free = {name for name in names if name not in forced}
    held = {n: forced.get(n, "torch") for n in engine.program.parameters if n in inside and n not in free}
    held |= {n: "fixed" for n, how in held.items() if how == "callable"}  # done before the others, which go around it
    return Block(tuple(names), kind, {name: uses[name] for name in names}, held)


def draw_in(engine: Engine, kinds: dict[str, str]) -> dict[str, str]:
    """Give every parameter that meets an absorbing one at a site its kind; return what the kinds were before."""
    drawn: dict[str, str] = {}
    while True:
        met: dict[str, str] = {}
        for here in _meetings(engine, kinds):
            taking = [kinds[name] for name in here if solver_of(kinds[name]).absorbs]
            if taking:
                met |= {name: taking[0] for name in here if not solver_of(kinds[name]).absorbs}
        if not met:
            return drawn
        drawn |= {name: kinds[name] for name in met}
        kinds |= met


def blocks_of(engine: Engine, kinds: Mapping[str, str]) -> list[list[str]]:
    """Return the parameters that must be solved together: those that meet at a site of a family with several roles."""
    meetings = ([n for n in here if not solver_of(kinds[n]).separable] for here in _meetings(engine, kinds))
    return connected(kinds, meetings)


def _meetings(engine: Engine, kinds: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the parameters among `kinds`, in their order, that meet at each site."""
    order = {name: k for k, name in enumerate(kinds)}
    for factor in engine.leaders.values():
        yield sorted(factor.parameters & order.keys(), key=order.__getitem__)
