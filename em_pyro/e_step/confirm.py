"""The engine compared with the user's own program: its arguments, its densities, its log evidence.

What a closed form or a recording stands for is read off a few runs. These comparisons, before the first step and after
the last one, are why it may be believed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import EMError
from ..program.named import Named, Params, align, batched, ordered, squeeze, unwrap
from ..program.unroll import unroll
from ..reading.bank import bound_once, entries_of
from ..reading.bound import Bound
from ..reading.reading import arguments
from .build import build
from .engine import Engine
from .shares import EVIDENCE
from .sites.site_factor import SiteFactor
from .whole import compiled_factors

SAME = {torch.float64: 1e-10, torch.float32: 1e-5}
SMALLEST = 1e-6  # of the largest entry of an argument: entries that are smaller may be off by more of themselves
NO_VALUE = (torch.linalg.LinAlgError, ValueError)  # of a law at arguments that it cannot have: a matrix without a root
LONG = 2000  # sites up to which the model's own densities are computed
MEASURED = 400_000  # entries of all factors up to which they are


def disagreements(engine: Engine, params: Params) -> list[str]:
    """Replay the user's program at `params` and list the sites at which it is not what the loop ran.

    Where it has no value it is at none of them: `measured` is nan there.
    """
    engine = engine.full
    with torch.no_grad():
        try:
            sites = unroll(engine.program.run(params))
        except EMError:
            raise
        except NO_VALUE:
            return []
        rounded = {n: v.to(engine.program.parameters[n].initial.dtype) for n, v in params.items()}
        bank = engine.recognition.bank
        batch = Bound(batched(rounded), bank).sources
        plain, probabilities = bank.values(batch), entries_of(bank.probabilities, batch)
        matrices = bank.stack(batch) if bank.matrices else torch.zeros(0)
        wrong = []
        for name in [*engine.sites, *(f.name for unit in engine.inner.values() for f in unit.factors)]:
            if name in engine.recognition.entered:  # computed by the model itself
                continue
            reading = engine.recognition.readings[name]
            truth = arguments(reading.family, sites[name])
            for key, role in reading.roles.items():
                domain = reading.family.roles[key].domain
                logs = domain in ("unit", "simplex")
                atoms = matrices if domain == "scale_tril" else probabilities if logs else plain
                bound = bound_once(role, atoms, batch)
                event = reading.event_rank + reading.family.roles[key].event_dim
                # A sum of terms is rounded beside them, which may cancel; what is selected is rounded beside itself.
                beside = 1.0 if role.affine is not None and domain == "real" else SMALLEST
                theirs = squeeze(truth[key], sites[name].dims, name, event)
                # Torch takes no probability below rounding.
                least = torch.finfo(torch.result_type(theirs.tensor, 0.0)).eps if logs else 0.0
                if not _close(theirs, Named(bound, role.names), beside, least):
                    wrong.append(name)
                    break
        if engine.recording is not None:
            from ..recording.recorded import other_values  # which is there already

            wrong += other_values(engine.recording, rounded, sites, SAME)
    return wrong


@torch.no_grad()
def other_densities(engine: Engine) -> list[str]:
    """Return the sites whose family computes another density than the model's own `log_prob`, at a random point."""
    if not _affordable(engine):
        return []
    sites, wrong = engine.recognition.runs[0], []
    bound = engine.bind(batched({n: v.double() for n, v in engine.recognition.values.items()}))
    factors = compiled_factors(engine, bound)
    for name, factor in engine.sites.items():
        if name not in factors:
            continue
        mine = factors[name].tensor
        log_prob = sites[name].log_prob()
        truth, kept = (
            _folded(engine, factor, log_prob) if factor.data.folded else (log_prob.tensor.double(), log_prob.names)
        )
        every = (*factor.names, *(n for n in kept if n not in factor.names))
        a, b = align(mine, factor.names, every), align(truth, kept, every)
        rtol = 1e-4 if sites[name].value.dtype == torch.float32 or log_prob.tensor.dtype == torch.float32 else 1e-8
        off = ((a - b).abs() > rtol * (1 + b.abs())) & (a > -1e3) & (b > -1e3)
        if bool(off.any()):
            wrong.append(name)
    return wrong


def _folded(engine: Engine, factor: SiteFactor, log_prob: Named) -> tuple[Tensor, tuple[str, ...]]:
    """Sum a log-density over the plates that its factor has folded into the cells, row weights included."""
    weight, folded = factor.data.weight, factor.data.folded
    own = () if weight is None else weight.names
    names = ordered((*log_prob.names, *folded), engine.sizes)
    each = log_prob.align(names).double()
    if weight is not None:
        scale = weight.tensor.flatten(len(own)).amax(-1) if weight.tensor.dim() > len(own) else weight.tensor
        rest = tuple(i for i, n in enumerate(own) if n not in folded and n not in log_prob.names)
        scale = scale.amax(rest) if rest else scale
        scale = Named(scale, tuple(n for i, n in enumerate(own) if i not in rest)).align(names)
        each = torch.where(scale == 0, 0.0, each * scale)
    each = each.expand([engine.sizes[n] if n in folded else each.shape[i] for i, n in enumerate(names)])
    kept = tuple(n for n in names if n not in folded)
    return each.sum([i for i, n in enumerate(names) if n in folded]), kept


def _affordable(engine: Engine) -> bool:
    """Whether the model's own densities are small enough to be computed beside ours."""
    sites, entries, widest = engine.recognition.runs[0], 0, 0
    for name, factor in engine.factors.items():
        event = math.prod(sites[name].fn.event_shape)
        # Categories are no event, and their logarithms are taken in all states of all rows.
        categories = math.prod(getattr(unwrap(sites[name].fn).base, "param_shape", ()))
        entries += max(categories, math.prod(engine.sizes[n] for n in factor.names) * event)
        widest = max(widest, sites[name].value.numel())
    return entries <= MEASURED and widest <= MEASURED and len(engine.factors) <= LONG


def _close(truth: Named, bound: Named, beside: float, least: float) -> bool:
    names = (*truth.names, *(n for n in bound.names if n not in truth.names))
    a, b = (Named.align(part, names).double() for part in (truth, bound))
    rtol = max(SAME[t.dtype] if t.dtype in SAME else 1e-10 for t in (truth.tensor, bound.tensor))
    size = b.abs().amax() if b.numel() else torch.zeros(())
    within = rtol * (b.abs() + beside * size + 1e-300) + least
    same = (a == b) | ((a - b).abs() <= within) | (a.isnan() & b.isnan())
    return bool(same.all())


def measured(engine: Engine, params: Params) -> float | None:
    """Return the log evidence by the model's own `log_prob`, nan where it has none; None where it is not affordable."""
    engine = engine.full
    if not _affordable(engine):
        return None
    if engine.recognition.latents is not None:
        from .gaussian.measured import at_the_mean

        return at_the_mean(engine, params)
    # Nothing is recognised: a DiscreteHMM is still taken apart, because its own scan loses what lies between zeros.
    recognition = replace(engine.recognition, readings={})
    whole = build(engine.program, recognition, recognition.runs[0], recognition.priors, {})
    try:
        return float(whole.expect(whole.bind(batched(params)), collect=EVIDENCE).log_evidence)
    except EMError:
        raise
    except NO_VALUE:
        return math.nan
