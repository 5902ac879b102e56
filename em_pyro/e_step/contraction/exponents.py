"""The exponents of rows: `poutine.scale` by plates, read once."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...errors import ModelError
from ...program.named import Named, ordered
from ...program.site import Site


def exponents(sites: Mapping[str, Site]) -> dict[frozenset[str], Named | None]:
    """Return the `poutine.scale` of every set of plates.

    Raises:
        ModelError: two sites of the same plates carry different scales.
    """
    first: dict[frozenset[str], str] = {}
    scales: dict[frozenset[str], Named | None] = {}
    for name, site in sites.items():
        if site.role == "prior":
            continue
        plates = frozenset(site.plates)
        value = None if site.once else site.row_weights
        value = None if value is None or (value.tensor.dim() == 0 and float(value.tensor) == 1.0) else value
        if plates not in first:
            first[plates], scales[plates] = name, value
            continue
        other = scales[plates]
        same = (value is None) == (other is None) and (
            value is None
            or other is None
            or (value.names == other.names and torch.equal(value.tensor, other.tensor.to(value.tensor)))
        )
        if not same:
            where = f"plate {sorted(plates)}" if plates else "outside all plates"
            raise ModelError(
                f'Site "{name}": expected the same poutine.scale as site "{first[plates]}" ({where}), got another. '
                f"A row's weight multiplies its whole log-likelihood: put the plate, latents included, inside the "
                f"scale."
            )
    return scales


def ratio(inner: Named | None, outer: Named | None, sizes: Mapping[str, int]) -> Named | None:
    """Exponent left for the inner plates when the rows of the outer ones carry theirs later; a zero row is absent."""
    if outer is None:
        return inner
    top = inner or Named(torch.ones((), dtype=torch.float64), ())
    names = ordered((*top.names, *outer.names), sizes)
    below = outer.align(names)
    left = torch.where(below == 0, 0.0, top.align(names) / torch.where(below == 0, 1.0, below))
    return None if bool((left == 1).all()) else Named(left, names)
