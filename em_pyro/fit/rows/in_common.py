"""What rows that lie apart have in common: arguments that none of them shows to differ by row, and the same atoms.

Each who holds rows lays them out by what they show. Where an argument is the same in all rows of a batch, and another
in those of the next, statistics of both would be added as if they were of one law.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.rebind import Centres, centred, forms_of
from ...errors import PlanError
from ...program.named import Params, batched
from ...reading.bank import Bank
from ...reading.bound import Bound

Constants = Mapping[tuple[str, str], Tensor]
"""By site and argument."""

SAME = 1e-9  # of an argument, and of its largest entry: by what those that are one may differ


def constants(engine: Engine, values: Params) -> Constants:
    """Return the arguments of all sites with parameters whose statistics are summed over rows, by site and argument."""
    bound = engine.bind(batched({name: value.detach().double() for name, value in values.items()}))
    every = (factor for unit in engine.units for factor in unit.every)
    sites = [factor for factor in every if factor.parameters and factor.kept is None]
    zero = torch.zeros((), dtype=torch.float64)  # each is laid out around a centre of its own
    return {(f.name, key): part for f in sites for key, part in f.arguments(bound, zero).items()}


def apart(engine: Engine) -> set[str]:
    """Name sites whose statistics are kept row by row."""
    return {factor.name for unit in engine.units for factor in unit.every if factor.kept is not None}


def differing(ones: Constants, others: Constants) -> set[str]:
    """Name sites with an argument that is the same in all rows here, in all rows there, and not in both."""
    return {at[0] for at in ones.keys() & others.keys() if not _same(ones[at], others[at])}


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    size = float(one.abs().nan_to_num(posinf=0.0).max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=SAME, atol=SAME * size, equal_nan=True)


def exposed(engine: Engine, names: Collection[str], centres: Centres) -> Engine:
    """Return the engine of the same rows with the rates of sites multiplied by what is known of each row.

    Args:
        engine: of some rows.
        names: of the sites.
        centres: around which values are taken.

    Raises:
        PlanError: a site has no such rate.
    """
    forms = forms_of(engine)
    found = centred(
        engine, centres, {n: replace(form, exposed=form.exposed or n in names) for n, form in forms.items()}
    )
    there = forms_of(found)
    for name in sorted(names):
        if name not in there or forms[name].exposed or not there[name].exposed:
            raise PlanError(
                f'Site "{name}": expected arguments that differ by row to do so within some batch or process, '
                f"got the same in all rows of each, and others in another. Mix the rows: all need all kinds."
            )
    return found


def suited(bound: Bound, part: Engine) -> Bound:
    """Return what is bound in the atoms of an engine: those that were read anew may select from others."""
    mine, theirs = part.recognition.bank, bound.bank
    return bound if mine is theirs or _stretches(mine) == _stretches(theirs) else part.bind(bound.batch)


def _stretches(bank: Bank) -> list[tuple[object, ...]]:
    every = (("entries", bank.entries), ("probabilities", bank.probabilities), ("matrices", bank.matrices))
    return [(n, s.parameter, s.chart.name, s.complement, s.offset, s.size) for n, found in every for s in found]
