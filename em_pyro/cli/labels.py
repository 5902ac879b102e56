"""What the posterior says of every row, as columns of a table."""

from __future__ import annotations

from typing import Any

from .. import Posterior
from ..errors import ParameterError


def labelled(law: Posterior, rows: int) -> dict[str, list[Any]]:
    """Return columns by name: of each discrete latent of the rows its mode and its probabilities.

    Raises:
        ParameterError: no discrete latent has a state for every row.
    """
    columns: dict[str, list[Any]] = {}
    for name, latent in law.engine.program.latents.items():
        found = law.marginal(name)
        if found.numel() != rows * latent.size:
            continue
        found = found.reshape(rows, latent.size)
        states = latent.support.reshape(latent.size, -1)
        said = ["/".join(f"{part:g}" for part in state) for state in states.tolist()]
        columns[name] = [said[k] for k in found.argmax(-1).tolist()]
        columns |= {f"{name}={state}": weights for state, weights in zip(said, found.mT.tolist(), strict=True)}
    if not columns:
        raise ParameterError(
            f"label: expected a model with a discrete latent in each of {rows} rows, got the latents "
            f"{sorted(law.engine.program.latents)}. Ask Fit.posterior_on in Python."
        )
    return columns
