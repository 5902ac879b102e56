"""Recordings of the programs that are laid out for tests."""

import torch

from em_pyro.recording.recorded import Recording, recorded
from oracles.engines import Built

EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}
"""How near a recording must come to the model, by the precision of its values."""


def sites_of(built: Built) -> tuple[list[str], list[str]]:
    """All sites of a program, and those among them that are priors."""
    run = built.recognition.runs[0]
    priors = [name for name, site in run.items() if site.role == "prior"]
    return [name for name in run if name not in priors], priors


def whole_recording(built: Built) -> Recording:
    """Every site of a program recorded, whether or not it is recognised."""
    sites, priors = sites_of(built)
    points, runs = built.recognition.points[:2], built.recognition.runs[:2]
    return recorded(built.program, sites, priors, points, runs)
