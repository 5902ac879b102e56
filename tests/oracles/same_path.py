"""Whether two fits took the same path."""

import torch

from em_pyro import Fit


def same(one: Fit, other: Fit) -> bool:
    """Whether two fits took the same path to the same end, to the last bit; what is said of files apart."""
    notes = [[note for note in fit.notes if not note.startswith("checkpoint")] for fit in (one, other)]
    values = all(torch.equal(one.params[n], v) and one.params[n].dtype == v.dtype for n, v in other.params.items())
    ends = [(f.path, f.outcome, f.num_steps, f.objective, f.gap, str(f.starts), f.switches) for f in (one, other)]
    return values and ends[0] == ends[1] and notes[0] == notes[1]
