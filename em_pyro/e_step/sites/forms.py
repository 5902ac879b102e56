"""In which form a site's factor is computed: a row of the table `FORMS` each.

Every form leads from arguments to log-densities and from posterior weights to statistics of one kind. Sites of a form
with `together` may share one matrix product with others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..chunks import WHOLE, Chunk
from .groups import groups_of
from .lookup import sparse_of, table_of
from .natural import Natural
from .product import InnerProduct
from .site_factor import Form, SiteFactor


@dataclass(frozen=True)
class Indicator(InnerProduct):
    """The features are the identity: a product with a latent's own support is a copy, and none is made."""

    together: bool = False

    def log_density(self, factor: SiteFactor, natural: Natural, features: Any, chunk: Chunk) -> Tensor:
        """The natural parameters themselves."""
        return natural.eta

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Any, chunk: Chunk
    ) -> Tensor:
        """The weights themselves."""
        return weights


def indicator_of(factor: SiteFactor) -> Indicator | None:
    """A latent of one dimension whose features are the identity."""
    layout = factor.layout
    if factor.role != "latent" or layout.batch or layout.cells or len(layout.columns) != 1:
        return None
    features = factor.data.features(WHOLE)
    square = features.shape[0] == features.shape[1]
    return Indicator() if square and torch.equal(features, torch.eye(len(features)).to(features)) else None


FORMS: tuple[Callable[[SiteFactor], Form | None], ...] = (indicator_of, groups_of, table_of, sparse_of)
"""Forms of a factor of its own, the first that takes it; `InnerProduct` is for all.

`rows.by_row`, for families without finite statistics, is asked for by name.
"""


def form_of(factor: SiteFactor) -> Form:
    """The form of a recognised site."""
    return next((form for take in FORMS if (form := take(factor)) is not None), factor.form)
