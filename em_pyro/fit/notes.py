"""What a plan says of the E-step: what is replayed and why, recursions, chunks of rows, forms of densities, dtypes."""

from __future__ import annotations

import torch

from ..e_step import notes
from ..e_step.engine import Engine
from ..program.named import listed


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
    if engine.runs_model:
        found.append(f"the model cannot be recorded as tensor operations: {engine.unrecorded}")
    found += notes.recursions(engine)
    found += [chunks] if (chunks := notes.chunks(engine)) else []
    found += notes.forms(engine)
    if any(p.initial.dtype == torch.float32 for p in engine.program.parameters.values()):
        found.append("float32 parameters: contracted and accumulated in float64, stored in float32")
    return tuple(found)
