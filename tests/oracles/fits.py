"""Whether two fits are one."""

import torch

from em_pyro import Fit


def alike(one: Fit, other: Fit) -> bool:
    """Whether two fits say the same."""
    values = all(torch.equal(one.params[n], v) and one.params[n].dtype == v.dtype for n, v in other.params.items())
    return values and one.path == other.path and str(one) == str(other) and str(one.plan) == str(other.plan)
