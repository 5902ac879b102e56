"""Take `dist.DiscreteHMM` sites apart: a chain whose states are no latents of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...program.masks import anywhere, seen
from ...program.named import Named
from ...program.unroll import FROM, INITIAL, STATE, TIME, TO, TRANSITION, unroll
from ..contraction.exponents import exponents
from ..contraction.schedule import Factor
from ..left import Left
from ..several.stack import Stack
from ..sites.compiled import still
from ..sites.layout import laid_out
from ..units import Unit
from .chain import Chain
from .find import with_recursion
from .parts import Part, Replayed, compiled, renamed


def take(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take every `dist.DiscreteHMM`, whose states are no latents of the program."""
    chains: list[Unit] = []
    scales = exponents(left.run)
    for name in [n for n in left.run if n + TRANSITION in left.run]:
        plates = frozenset(left.run[name].plates)
        chain, constants = _hidden(name, left, weighted=scales.get(plates) is not None)
        chains.append(chain)
        factor = Factor(name, chain.outside, plates, scales.get(plates))
        left = left.taking((name, name + INITIAL, name + TRANSITION), factor, constants=constants)
    return chains, left


def _hidden(name: str, left: Left, *, weighted: bool) -> tuple[Chain, dict[str, Named]]:
    """Put a `dist.DiscreteHMM` together: its parts compiled where they are recognised, replayed elsewhere.

    Args:
        name: its site.
        left: with its parts among the sites of the run.
        weighted: whether its rows carry a `poutine.scale`.

    Returns:
        The unit, and the log-probabilities of replayed parts that never change.
    """
    sites, recognition, sizes = left.run, left.recognition, left.sizes
    plates = frozenset(sites[name].plates)
    steps = tuple(range(sizes[name + TIME]))
    around = {n for n in sites[name].dims.values() if n not in (name + STATE, name + TIME) and sizes[n] > 1}
    mask = seen(sites[name])
    rows = None if mask is None else anywhere(mask, {n for n in mask.names if n != name + STATE})
    reached = None if rows is None else _reached(rows, name + TIME, sizes)
    kinds = {
        name + INITIAL: ({name + FROM: STATE}, (0,)),
        name + TRANSITION: ({name + FROM: FROM, name + TO: TO, name + TIME: TIME}, steps),
        name: ({name + STATE: STATE, name + TIME: TIME}, steps),
    }
    parts: list[Part] = []
    constants: dict[str, Named] = {}
    for key, (own, at) in kinds.items():
        alive = None if reached is None or key == name else Named(reached.tensor[: len(at)], reached.names)
        if key in recognition.readings:
            # nothing is folded, because a chain joins all times of a row
            factor = laid_out(recognition.readings[key], sizes, plates, None)
            parts.append(compiled(Stack((factor,), same=True), own, at, alive))
            continue
        with torch.no_grad():
            log_prob = sites[key].log_prob()
        entering = recognition.reaches.get(key, frozenset())
        if not entering and still(key, log_prob, [unroll(run) for run in recognition.runs[:2]]):
            constants[key] = Named(log_prob.tensor.double(), log_prob.names)
        have = log_prob.names
        parts.append(Replayed(key, renamed(have, own), at, have, key not in constants, alive))
    initial, transition, emission = parts
    outside = tuple(n for n in sizes if n in around and (n in plates or any(n in part.names for part in parts)))
    weighted = weighted or any(n not in plates for n in outside)
    chain = Chain(
        name, name, (), sizes[name + STATE], len(steps), (initial,), (transition,), (emission,), outside, sizes,
        entered=True, weighted=weighted,
    )  # fmt: skip
    return with_recursion(chain, sites[name].value.device), constants


def _reached(rows: Named, time: str, sizes: Mapping[str, int]) -> Named:
    """Steps at or after which something is observed: states past the end enter no statistics."""
    names = (time, *(n for n in rows.names if n != time))
    every = rows.align(names)
    every = every.expand((sizes[time], *every.shape[1:]))
    return Named(every.flip(0).cummax(0).values.flip(0).double(), (TIME, *names[1:]))
