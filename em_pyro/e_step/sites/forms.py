"""In which form a site's factor is computed: a row of the table `FORMS` each.

Every form leads from arguments to log-densities and from posterior weights to statistics of one kind. Sites of a form
with `together` may share one matrix product with others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..chunks import WHOLE
from .lookup import sparse_of, table_of
from .product import InnerProduct
from .site_factor import Form, SiteFactor


@dataclass(frozen=True)
class Indicator(InnerProduct):
    """The features are the identity: a product with a latent's own support is a copy."""

    together: bool = False

    def densities(self, eta: Tensor, features: Tensor) -> Tensor:
        """The natural parameters themselves."""
        return eta

    def statistics(self, weights: Tensor, features: Tensor, width: int) -> Tensor:
        """The weights themselves."""
        return weights


def indicator_of(factor: SiteFactor) -> Indicator | None:
    """A latent whose features are the identity."""
    if factor.role != "latent" or factor.layout.batch or factor.layout.cells:
        return None
    features = factor.data.features(WHOLE)
    square = features.shape[0] == features.shape[1]
    return Indicator() if square and torch.equal(features, torch.eye(len(features)).to(features)) else None


FORMS: tuple[Callable[[SiteFactor], Form | None], ...] = (indicator_of, table_of, sparse_of)
"""Forms of a factor of its own, the first that takes it; `InnerProduct` is for all.

`rows.by_row`, for families without finite statistics, is asked for by name.
"""


def form_of(factor: SiteFactor) -> Form:
    """The form of a recognised site."""
    return next((form for take in FORMS if (form := take(factor)) is not None), factor.form)
