"""What is recorded of a model is the model: values, gradients and second derivatives."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from oracles.engines import EVERYTHING, Built, distance, laid_out
from oracles.recordings import EXACT, sites_of, whole_recording
from oracles.tolerances import IDENTITY, SOLVERS
from oracles.varied import VARIED
from torch import Tensor

from em_pyro.recording.moved import played
from em_pyro.recording.record import Untraceable
from em_pyro.recording.recorded import other_values, recorded

REFUSED = {
    "ModuleWithPrior": "reads a number",  # its prior, built outside the model, checks its values
    # Pyro's log-sum-exp, with which a DiscreteHMM is summed out, has a backward pass of its own.
    **{name: "gradient" for name in EVERYTHING if name.startswith(("discrete-hmm-", "hmm_"))},
}
"""Programs of which not every site can be recorded, and why."""


def gradients(built: Built, moved: Callable[[Mapping[str, Tensor]], Any], seed: int) -> dict[str, Tensor]:
    """Gradient of a random combination of all factors and priors at `there`."""
    leaves = {name: value.clone().requires_grad_() for name, value in built.there.items()}
    weights = {name: p.tensor for name, p in built.program.parameters.items() if p.tensor is not None}
    with built.program.given(leaves):
        found = moved(leaves)
        total, generator = found.prior, torch.Generator().manual_seed(seed)
        for _, part in sorted(found.factors.items()):
            v = torch.randn(part.tensor.shape, generator=generator, dtype=torch.float64)
            total = total + torch.where(part.tensor > -1e9, part.tensor, 0.0).mul(v).sum()
        of_leaves = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=True)
        of_weights = torch.autograd.grad(total, list(weights.values()), allow_unused=True) if weights else ()
    pairs = zip(leaves.items(), of_leaves, strict=True)
    sums = {name: torch.zeros_like(leaf) if slope is None else slope for (name, leaf), slope in pairs}
    for name, slope in zip(weights, of_weights, strict=True):
        sums[name] = sums[name] + (0.0 if slope is None else slope)
    return sums


@pytest.mark.parametrize("name", VARIED)
def test_a_recording_is_the_model(name: str) -> None:
    """At values that the recording has not seen, every factor and every gradient are those of a run of the model."""
    built = laid_out(name)
    if name in REFUSED:
        with pytest.raises(Untraceable, match=REFUSED[name]):
            whole_recording(built)
        return
    recording = whole_recording(built)
    for params in (built.here, built.there):
        with torch.no_grad():
            run = built.program.run(params)
        assert other_values(recording, params, run, EXACT) == []
    sites, priors = sites_of(built)
    mine = gradients(built, recording, 4)
    theirs = gradients(built, lambda values: played(built.program, sites, priors, values), 4)
    single = any(p.initial.dtype == torch.float32 for p in built.program.parameters.values())
    size = 1 + max((float(slope.abs().max()) for slope in theirs.values()), default=0.0)
    for key, slope in theirs.items():
        assert distance(mine[key] / size, slope / size) < (SOLVERS if single else 1e-12)
    moved = {key: value + 0.01 for key, value in built.there.items()}
    if built.there:  # the fault: other parameters
        with torch.no_grad():
            assert other_values(recording, moved, built.program.run(built.there), EXACT) != []


@pytest.mark.parametrize("name", ["hurdle-poisson", "hmm-poisson-stationary", "irt-normal-ogive"])
def test_the_second_derivatives_too(name: str) -> None:
    """A recording differentiates twice as the model does."""
    built = laid_out(name)
    engine = built.compiled
    recording = recorded(built.program, engine.written, (), built.recognition.points[:1], built.recognition.runs[:1])
    products = []
    for moved in (recording, lambda values: played(built.program, engine.written, (), values)):
        leaves = {key: value.clone().requires_grad_() for key, value in built.there.items()}
        total = torch.as_tensor(sum(part.tensor.sin().sum() for part in moved(leaves).factors.values()))
        used = [leaf for leaf in leaves.values()]
        first = torch.autograd.grad(total, used, create_graph=True, allow_unused=True)
        size = torch.as_tensor(sum(slope.cos().sum() for slope in first if slope is not None))
        products.append([g for g in torch.autograd.grad(size, used, allow_unused=True) if g is not None])
    assert products[0]
    assert max(distance(a, b) for a, b in zip(*products, strict=True)) < IDENTITY
