"""Pyro's published examples, as a folder has them, and data in the shapes that they expect.

Their files are not in this repository. The environment variable `EM_PYRO_EXAMPLES` names a folder that has them: the
folder `examples` of a clone of Pyro, and for the tutorials the cells of the notebooks that make the data and the
models, as `gmm_tutorial.py`, `enumeration_tutorial.py` and `dp_tutorial.py`. Data are simulated. Priors of hmm.py,
lda.py and most tutorials have shapes below one, so these fits take the densities of unconstrained coordinates, and so
does SVI.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FOLDER = "EM_PYRO_EXAMPLES"

Arguments = Callable[[ModuleType], tuple[tuple[Any, ...], dict[str, Any]]]
"""Positional and named arguments of a model, drawn for the module that has it."""


@dataclass(frozen=True)
class Example:
    """One published model.

    Attributes:
        file: in the folder, without its ending.
        model: its name there.
        arguments: draws what it is called with.
        nesting: of its plates.
        options: of `EM`.
    """

    file: str
    model: str
    arguments: Arguments = field(repr=False)
    nesting: int = 1
    options: dict[str, Any] = field(default_factory=dict)


INSIDE: dict[str, Any] = {"prior_density": "unconstrained"}


def music(*, raftery: bool = False) -> Arguments:
    """Draw ten sequences of five tones, of up to eight steps."""

    def draw(module: ModuleType) -> tuple[tuple[Any, ...], dict[str, Any]]:
        import torch

        lengths = torch.tensor([8, 8, 7, 8, 6, 5, 8, 3, 2, 8])
        tones = (torch.rand(10, 8, 5) < torch.rand(5) * 0.8).double()
        tones[torch.arange(8) >= lengths[:, None]] = 0.0
        asked = SimpleNamespace(hidden_dim=4, jit=False, raftery_parameterization=raftery, nn_dim=8, nn_channels=2)
        return (tones, lengths), {"args": asked}

    return draw


def captures(module: ModuleType) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw sixty animals, marked at some of six occasions and seen again, or not."""
    import torch

    sex, seen = torch.arange(60).remainder(2).double(), torch.zeros(60, 6)
    for animal in range(60):
        first = int(torch.randint(5, ()))
        alive = torch.rand(6).gt(0.25 + 0.15 * float(sex[animal])).double()
        alive[: first + 1] = 1.0
        seen[animal] = alive.cumprod(0) * (torch.rand(6) < 0.6)
        seen[animal, :first], seen[animal, first] = 0.0, 1.0
    return (seen, sex), {}


def documents(module: ModuleType) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw twenty documents of sixteen words, of four topics."""
    import torch

    share = torch.distributions.Dirichlet(torch.full((4,), 0.5)).sample((20,))
    table = torch.distributions.Dirichlet(torch.full((30,), 0.2)).sample((4,))
    words = torch.multinomial(share @ table, 16, replacement=True).T.contiguous()
    return (words,), {"args": SimpleNamespace(num_topics=4, num_words=30, num_docs=20, num_words_per_doc=16)}


def switches(module: ModuleType) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let the example draw its own data."""
    prior, _, data = module.generate_data(300)
    return (prior, data, 300), {}


def seals(module: ModuleType) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw tracks of three animals in two groups, with steps that are missing."""
    import torch

    shape, missing = (3, 2, 5), 1e-6
    state = torch.randint(2, shape).double()
    step, turn = torch.distributions.Gamma(2 + 4 * state, 2.0).sample(), torch.rand(shape) * 0.9 + 0.05
    angle = torch.distributions.VonMises(2 * state, torch.tensor(3.0)).sample()
    length = torch.tensor([[5, 5], [5, 4], [5, 3]])
    config = {
        "MISSING": missing,
        "sizes": {"state": 2, "random": 2, "group": 2, "individual": 3, "timesteps": 5},
        "group": {"random": None},
        "individual": {"random": None, "mask": length > 0},
        "timestep": {"mask": torch.arange(5) < length[..., None]},
        "observations": {
            "step": step.masked_fill(torch.rand(shape) < 0.15, missing),
            "omega": turn.masked_fill(torch.rand(shape) < 0.15, missing),
            "angle": angle,
        },
    }
    return (config,), {}


def own(*names: str) -> Arguments:
    """Take the data that the tutorial itself has, by name."""
    return lambda module: (tuple(getattr(module, name) for name in names), {})


HMM = {f"hmm.py, model {k}": Example("hmm", f"model_{k}", music(), 1 + (k > 0), INSIDE) for k in range(8)}
CJS = {f"cjs.py, model {k}": Example("cjs", f"model_{k}", captures) for k in range(1, 6)}
TUTORIAL = "enumeration_tutorial"
EXAMPLES: dict[str, Example] = {
    **HMM,
    "hmm.py, model 6, Raftery": Example("hmm", "model_6", music(raftery=True), 2),
    **CJS,
    "lda.py": Example("lda", "model", documents, 2, {**INSIDE, "continuous": {"doc_topics": "maximise"}}),
    "toy mixture": Example("toy_mixture_model_discrete_enumeration", "model", switches),
    "mixed_hmm": Example("mixed_hmm/model", "model_generic", seals, 2),
    "tutorial: Gaussian mixture": Example("gmm_tutorial", "model", own("data")),
    "tutorial: enumeration 17": Example(TUTORIAL, "model_17", own(), 2, {"continuous": {"p": "maximise"}}),
    "tutorial: enumeration 19": Example(TUTORIAL, "model_19", own("data_19"), 1, INSIDE),
    "tutorial: enumeration, chain": Example(TUTORIAL, "hmm_model_27", own("data", "data_dim"), 1, INSIDE),
    "tutorial: Dirichlet process": Example("dp_tutorial", "model", own("data"), 1, INSIDE),
}


def load(file: str) -> ModuleType:
    """Import an example; the loader of music, which fetches it, stays out."""
    import pyro.contrib.examples as examples

    stub = ModuleType("pyro.contrib.examples.polyphonic_data_loader")
    sys.modules[stub.__name__] = stub
    vars(examples)["polyphonic_data_loader"] = stub
    spec = importlib.util.spec_from_file_location(Path(file).stem, Path(os.environ[FOLDER]) / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
