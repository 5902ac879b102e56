"""What a plan says of the E-step: in which form sites are computed, and where digits are lost."""

from __future__ import annotations

from ..program.named import listed
from .engine import Engine
from .sites.centring import FARTHEST


def forms(engine: Engine) -> list[str]:
    """Name the form of every site of a location family, and where it changes."""
    lines, fixed = list[str](), dict[str, float]()
    for name, factor in engine.leaders.items():
        if not factor.moves or not factor.data.value.names:
            continue
        least = float(factor.data.reach / FARTHEST)
        if factor.centres:
            lines.append(f'site "{name}": one centre for all cells; each its own where a scale is below {least:.2g}')
        else:
            fixed[name] = least
    if fixed:
        which, most = listed([f'"{name}"' for name in fixed]), max(fixed.values())
        site = "sites" if len(fixed) > 1 else "site"
        lines.append(f"{site} {which}: one centre for all cells; digits are lost where a scale is far below {most:.2g}")
    return lines


def recursions(engine: Engine) -> list[str]:
    """Return by which recursion every chain is run, and why."""
    found: dict[str, list[str]] = {}
    for unit in engine.units:
        for title, how in unit.notes.items():
            found.setdefault(how, []).append(title)
    return [f"chain{'s' * (len(names) > 1)} {listed(names)}: {how}" for how, names in found.items()]


def chunks(engine: Engine) -> str:
    """In how many chunks rows are taken, or why they are taken whole."""
    if engine.whole:
        return f"rows are taken whole: {engine.whole}"
    first = max((part.chunks() for part in engine.parts), key=len, default=())
    return f'plate "{first[0].plate}" in {len(first)} chunks of {first[0].length} rows' if len(first) > 1 else ""


def seen_by_row(engine: Engine) -> str:
    """Name a site whose statistics have an entry for every row that was merged; empty if there is none."""
    merged = [p for p in engine.program.plates if engine.program.plates[p] != engine.full.program.plates[p]]
    return next((name for name, factor in engine.leaders.items() if any(factor.stuck(p) for p in merged)), "")


def integrated(engine: Engine) -> list[str]:
    """Say of every continuous latent that is integrated why it is, and how: once of those of which it is the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for unit in engine.units:
        for name in unit.continuous:
            key = engine.program.integrated[name], unit.structure(name)
            found.setdefault(key, []).append(name)
    return [
        f"continuous latent{'s' * (len(names) > 1)} {listed(_quoted(names))}: integrated ({why}); {how}"
        for (why, how), names in found.items()
    ]


def _quoted(names: list[str]) -> list[str]:
    return [f'"{name}"' for name in names]
