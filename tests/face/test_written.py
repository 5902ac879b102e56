"""How an EM is shown: its model, and the options that are not their defaults; and in a notebook what it answers."""

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from em_pyro.models import coins, gaussian_mixture

import em_pyro
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


class Printer:
    """What IPython hands over."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.written = ""

    def text(self, text: str) -> None:
        """Take some text."""
        self.written += text


def test_a_notebook_shows_what_is_printed() -> None:
    """At the end of a cell, of whatever an answer is."""
    heads, tosses = torch.tensor([5.0, 9.0, 8.0, 4.0, 7.0]), torch.full((5,), 10.0)
    pyro.clear_param_store()
    em = EM(coins.coins, starts=2)
    fit = em.fit(heads, tosses, 2)
    answers = [fit, fit.plan, fit.starts, fit.posterior, fit.summary(), fit.criteria(), fit.information()]
    answers += [fit.certificate(), em_pyro.select(lambda K: partial(coins.coins, K=K), [1, 2], heads, tosses)]
    for answer in answers:
        printer = Printer()
        answer._repr_pretty_(printer, cycle=False)
        assert printer.written == str(answer)
