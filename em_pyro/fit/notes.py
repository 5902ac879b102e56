"""What a plan says of the E-step: what is replayed and why, recursions, chunks of rows, forms of densities, dtypes."""

from __future__ import annotations

import torch

from ..e_step import notes
from ..e_step.engine import Engine
from ..program.named import listed

BY_TABLE = "its arguments are recorded as tensor operations, and its statistics are those of its family"


def not_fitted(engine: Engine) -> tuple[str, ...]:
    """Say which sites depend on a tensor that looks as if it should be fitted and is no parameter."""
    return tuple(
        f'site "{name}" depends on a tensor of shape {shape} with requires_grad that is no parameter: it is not '
        f"fitted. Declare it by pyro.param or pyro.module, or detach it"
        for name, shape in engine.recognition.outside.items()
    )


def notes_of(engine: Engine, rows: str) -> tuple[str, ...]:
    """Say what else the plan should say: replayed sites, chunks, dtype."""
    found = [rows] if rows else []
    reasons: dict[str, list[str]] = {}
    for name in engine.moving:
        refusal = engine.recognition.refusals.get(name)
        reasons.setdefault(refusal.why if refusal else "not compiled", []).append(name)
    for why, names in reasons.items():
        how = "recorded once as tensor operations" if engine.recording else "the model is replayed in every step"
        found.append(f"site{'s' * (len(names) > 1)} {listed(names)}: {how}, because {why}")
    refusals, tabled = engine.recognition.refusals, engine.recognition.tabled
    unrecorded = engine.recognition.bank.unrecorded
    by_latents = [n for n in engine.recognition.readings if n in refusals and n not in tabled]
    run = f"computed by a run of the model in every step, as they cannot be recorded ({unrecorded})"
    of_latents = f"location and scale are {run if unrecorded else 'recorded once as tensor operations'}"
    for sites, how in ((by_latents, of_latents), (tabled, BY_TABLE)):
        for why in dict.fromkeys(refusals[name].why for name in sites):
            names = [name for name in sites if refusals[name].why == why]
            found.append(f"site{'s' * (len(names) > 1)} {listed(names)}: {how}, because {why}")
    if engine.runs_model:
        found.append(f"the model cannot be recorded as tensor operations: {engine.unrecorded}")
    found += cut_off(engine)
    found += not_fitted(engine)
    found += notes.integrated(engine)
    found += notes.recursions(engine)
    found += [chunks] if (chunks := notes.chunks(engine)) else []
    found += notes.forms(engine)
    if engine.program.dtype == torch.float32:
        found.append("float32 parameters: contracted and accumulated in float64, stored in float32")
    return tuple(found)


def cut_off(engine: Engine) -> tuple[str, ...]:
    """Name the parameters that no gradient reaches from sites which change with them: the fit does not see these."""
    return tuple(
        f'no gradient reaches "{name}" from site{"s" * (len(sites) > 1)} {listed(sites)}, which changes with it: it is '
        f"detached, or goes through .item() or NumPy, and is not fitted there"
        for name, sites in engine.full.recognition.cut.items()
    )
