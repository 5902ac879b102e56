"""How an EM is shown: its model, and the options that are not their defaults."""

from functools import partial
from typing import Any

import pytest
import torch
from em_pyro.models import gaussian_mixture

from em_pyro import EM, VariationalEM


class Model:
    """A model that is no function."""

    def __call__(self, x: Any) -> None:
        """Do nothing."""


def own(statistics: Any, value: Any) -> Any:
    """Keep the value."""
    return value


@pytest.mark.parametrize(
    ("em", "shown"),
    [
        (EM(gaussian_mixture.full), "EM(full)"),
        (EM(Model()), "EM(Model())"),
        (EM(partial(gaussian_mixture.full, K=3), starts=20), "EM(partial(full, K=3), starts=20)"),
        (EM(gaussian_mixture.full, tol=0, acceleration=None), "EM(full, tol=0, acceleration=None)"),
        (
            EM(gaussian_mixture.full, m_step={"loc": "fixed", "scale_tril": own}),
            "EM(full, m_step={'loc': 'fixed', 'scale_tril': own})",
        ),
        (EM(gaussian_mixture.full, starts={"loc": torch.zeros(2, 2)}), "EM(full, starts={'loc': <shape (2, 2)>})"),
        (
            EM(gaussian_mixture.full, starts=[{"loc": torch.zeros(2)}] * 3),
            "EM(full, starts=[{'loc': <shape (2,)>}, ...])",
        ),
        (EM(gaussian_mixture.full, screen=False, checkpoint="a.pt"), "EM(full, screen=False, checkpoint='a.pt')"),
        (VariationalEM(gaussian_mixture.full, starts=3), "VariationalEM(full, starts=3)"),
        (VariationalEM(gaussian_mixture.full, {"loc": 1}), "VariationalEM(full, priors={'loc': 1})"),
    ],
)
def test_what_differs_from_the_defaults_is_shown(em: Any, shown: str) -> None:
    """As it would be written, and nothing else."""
    assert repr(em) == shown
