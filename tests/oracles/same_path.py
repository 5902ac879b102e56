"""Whether two fits took the same path."""

import torch
from torch import Tensor

from em_pyro import Fit

DIGITS = 1e-12  # relative: matrix products may round the last one otherwise where memory lies elsewhere


def same(one: Fit, other: Fit) -> bool:
    """Whether two fits took the same path to the same end, but for last digits; what is said of files apart."""
    notes = [[note for note in fit.notes if not note.startswith("checkpoint")] for fit in (one, other)]
    values = all(alike(one.params[n], v) and one.params[n].dtype == v.dtype for n, v in other.params.items())
    ends = [(len(f.path), f.outcome, f.num_steps, str(f.starts), f.switches) for f in (one, other)]
    paths = [torch.tensor([*f.path, f.objective], dtype=torch.float64) for f in (one, other)]
    return values and ends[0] == ends[1] and notes[0] == notes[1] and alike(*paths)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether numbers are the same but for last digits, those of a matrix beside its largest."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    digits = DIGITS if one.dtype == torch.float64 else 1e-6
    return bool(((one - other).abs() <= digits * (1 + other.abs().nan_to_num(0.0).amax())).all())
