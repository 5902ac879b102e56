"""Transforms whose inverse has been taken: each holds the other, and is looked into once."""

import pyro.distributions as dist
import torch
from torch.distributions import transforms

from em_pyro.program.changes.lost import arguments_of
from em_pyro.program.marks import Marked, marks_of


def test_arguments_of_a_law_under_an_inverse() -> None:
    """What the inverse has inside is found, and the search ends."""
    loc = torch.tensor([1.0, 2.0])
    law = dist.TransformedDistribution(dist.Normal(0.0, torch.ones(2)), transforms.AffineTransform(loc, 3.0).inv)
    assert any(part is loc for _, part in arguments_of(law))


def test_marks_of_a_law_under_an_inverse() -> None:
    """The mark of a tensor inside is found, and the search ends."""
    base = dist.Normal(Marked(torch.zeros(2), frozenset({"z"})), torch.ones(2), validate_args=False)
    law = dist.TransformedDistribution(base, transforms.ExpTransform().inv, validate_args=False)
    assert marks_of(law) == frozenset({"z"})
