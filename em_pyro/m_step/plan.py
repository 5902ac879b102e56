"""Decide for every parameter how it is maximised, and say why.

Recognition is necessary, not sufficient. A parameter has a closed form only if all its uses are at sites of one kind of
family, its constraint allows all values that the argument may take, and the parameters of its block have a joint
maximum in closed form; where they have only conditional ones, the block is swept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..e_step.engine import Engine
from ..errors import ParameterError, PlanError
from ..program.named import listed
from .ascent.climbs import Climb, climbs_of
from .assemble import counts, joint, multivariate, normal, rates, try_out
from .counts import Counts, Rates
from .joint import Joint
from .least_squares.matrix import MatrixBlock
from .least_squares.scalar import NormalBlock
from .pooling import Refused
from .regression.assemble import newton
from .regression.newton_block import NewtonBlock
from .rows import Rows, rows
from .uses import Use, because, because_newton, kind_of, role_of, uses_of

Choice = str | Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Line:
    """What happens to one parameter in every M-step."""

    parameter: str
    how: str  # "closed form" | "Newton" | "swept" | "torch" | "fixed" | "callable"
    role: str  # family and argument, "Binomial.probs"
    sites: tuple[str, ...]
    why: str

    @property
    def closed_form(self) -> bool:
        """Whether the maximum is found to rounding, by formulas or Newton's method, without an optimiser of torch."""
        return self.how in ("closed form", "Newton", "swept")


@dataclass(frozen=True)
class Plan:
    """How each parameter is maximised, and how the loop runs. Print it."""

    lines: Mapping[str, Line]
    solvers: tuple[Any, ...] = field(repr=False)
    swept: bool
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

    @property
    def free(self) -> tuple[str, ...]:
        """Parameters that move."""
        return tuple(n for n, line in self.lines.items() if line.how != "fixed")

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


def choose(engine: Engine, options: Mapping[str, Choice], withdrawn: Mapping[str, str]) -> Plan:
    """Choose a solver for every parameter of `engine`.

    Args:
        engine: the program, recognised and laid out.
        options: the user's `m_step` by parameter.
        withdrawn: parameters whose closed form failed a check, with the reason.

    Raises:
        ParameterError: an option names no parameter, or is none of those that exist.
        PlanError: "closed" was asked for where there is no closed form.
    """
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
    reasons: dict[str, str] = dict(withdrawn)
    uses = {name: uses_of(engine, name) for name in parameters}
    kinds: dict[str, str] = {}
    for name, parameter in parameters.items():
        if name in reasons:
            continue
        try:
            kinds[name] = kind_of(engine, parameter, uses[name])
        except Refused as reason:
            reasons[name] = str(reason)
    forced = {n: c if isinstance(c, str) else "callable" for n, c in options.items() if c != "closed"}
    solvers: list[Any] = []
    swept: dict[str, str] = {}
    drawn = draw_in(engine, kinds)
    blocks = blocks_of(engine, kinds)
    while blocks:
        block = blocks.pop()
        solve_block(engine, block, kinds, uses, forced, solvers, reasons, swept)
        if drawn.keys() & set(block) & reasons.keys():  # no Newton block: those drawn into it have their own kinds back
            back = {name: drawn.pop(name) for name in block if name in drawn}
            kinds |= back
            for name in back:
                del reasons[name]
            blocks += blocks_of(engine, back)
    solved = {name for solver in solvers for name in owned(solver)}
    newtons = {name: solver.moving for solver in solvers if isinstance(solver, NewtonBlock) for name in solver.moving}
    couple(engine, solvers, {n for n in parameters if n not in solved and options.get(n) != "fixed"}, swept)
    lines = {}
    for name in parameters:
        choice = options.get(name, "closed" if name in solved else "torch")
        role, sites = role_of(uses[name], engine, name)
        if callable(choice):
            lines[name] = Line(name, "callable", role, sites, "your own M-step, held to a Q that does not fall")
        elif choice == "fixed":
            lines[name] = Line(name, "fixed", role, sites, "kept at its start value, as you asked")
        elif choice == "torch":
            why = "as you asked" if name in options else reasons.get(name, "no closed form")
            lines[name] = Line(name, "torch", role, sites, why)
        elif name not in solved:
            raise PlanError(
                f'm_step["{name}"]: expected a closed form, but there is none: {reasons.get(name)}. '
                f'Choose "torch" or leave it out.'
            )
        elif name in swept:
            lines[name] = Line(name, "swept", role, sites, swept[name])
        elif name in newtons:
            lines[name] = Line(name, "Newton", role, sites, because_newton(uses[name], newtons[name], name))
        else:
            lines[name] = Line(name, "closed form", role, sites, because(uses[name], engine, name))
    climbs = climbs_of(engine, [name for name, line in lines.items() if line.how == "torch"])
    for climb in climbs:
        for name in climb.names if climb.caveat else ():
            lines[name] = replace(lines[name], why=f"{lines[name].why}; {climb.caveat}")
    calls = {name: choice for name, choice in options.items() if callable(choice)}
    return Plan(lines, tuple(solvers), bool(swept), callables=calls, climbs=climbs)


# ---- blocks of parameters that are solved together ------------------------------------------------------------------


def draw_in(engine: Engine, kinds: dict[str, str]) -> dict[str, str]:
    """Make every parameter that meets one of kind "newton" at a site one too; return what those were before."""
    drawn: dict[str, str] = {}
    while True:
        met = {
            name
            for term in engine.leaders.values()
            if any(kinds.get(n) == "newton" for n in term.parameters)
            for name in term.parameters
            if name in kinds and kinds[name] != "newton"
        }
        if not met:
            return drawn
        drawn |= {name: kinds[name] for name in met}
        kinds |= dict.fromkeys(met, "newton")


def blocks_of(engine: Engine, kinds: Mapping[str, str]) -> list[list[str]]:
    """Parameters that must be solved together: those that meet at a site of a family with several roles."""
    root = {name: name for name in kinds}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for term in engine.leaders.values():
        together = [n for n in kinds if n in term.parameters and kinds[n] not in ("counts", "rates")]
        for other in together[1:]:
            root[find(other)] = find(together[0])
    groups: dict[str, list[str]] = {}
    for name in kinds:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def solve_block(
    engine: Engine,
    block: list[str],
    kinds: Mapping[str, str],
    uses: Mapping[str, list[Use]],
    forced: Mapping[str, str],
    solvers: list[Any],
    reasons: dict[str, str],
    swept: dict[str, str],
) -> None:
    """Find the solver of one block, or note why there is none."""
    kind = kinds[block[0]]
    found: Any
    try:
        if kind == "counts":
            found, why = counts(engine, block[0], uses[block[0]]), ""
        elif kind == "rates":
            found, why = rates(engine, block[0], uses[block[0]]), ""
        elif kind == "newton":
            found, why = newton(engine, block, uses, forced)
        elif kind == "normal":
            found, why = normal(engine, block, uses, forced)
        elif kind == "multivariate_normal":
            found, why = multivariate(engine, block, uses, forced)
        else:
            found, why = joint(engine, block, uses, forced), ""
            found = rows(found, engine.leaders) if kind == "rows" else found
            try_out(found, engine)
    except Refused as reason:
        for name in block:
            reasons[name] = str(reason)
        return
    if kind in ("counts", "rates") and block[0] in forced:
        return
    names = owned(found)
    if names:
        solvers.append(found)
    if why:
        swept.update(dict.fromkeys(names, why))


def couple(engine: Engine, solvers: Sequence[Any], moving: set[str], swept: dict[str, str]) -> None:
    """Scales that are solved around a location that is not: the two must be alternated."""
    for solver in solvers:
        if isinstance(solver, (NormalBlock, MatrixBlock)) and solver.scales:
            bank = engine.recognition.bank
            for use in solver.uses:
                others = (bank.parameters(engine.leaders[use.term].roles["loc"], "real") & moving) - set(
                    solver.locations
                )
                if others:
                    why = f'its location "{min(others)}" is maximised otherwise: alternated until Q is stationary'
                    swept.update(dict.fromkeys(owned(solver), why))


def owned(solver: Any) -> tuple[str, ...]:
    """Parameters that a solver returns."""
    if isinstance(solver, (Counts, Rates)):
        return (solver.parameter,)
    if isinstance(solver, NewtonBlock):
        return solver.moving
    if isinstance(solver, (Joint, Rows)):
        return tuple(name for name, _ in solver.solved.values())
    return (*solver.locations, *(name for name, _ in solver.scales))
