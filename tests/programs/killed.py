"""Fits that are killed in the middle: as a program, it forks a process for each, and says how they ended.

python killed.py FOLDER          # leaves FOLDER/NAME.pt
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from em_pyro.models import factor_analysis
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.checkpoint.journal import Journal
from programs.loops import mixture, points, symmetric
from programs.networks import Gate, lines
from programs.registry import build

Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], int]
"""A model, its arguments, options, and at which turn of its loops the process is killed."""


def of(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a program of the registry."""
    case = build(name)
    return case.model, case.args


def drawn(x: Tensor) -> None:
    """Mix Normals from values that nobody has seeded, beside a site with a prior."""
    scale = pyro.sample("scale", dist.Gamma(tensor(4.0), tensor(3.0)))
    weights = pyro.param("weights", lambda: dist.Dirichlet(torch.ones(3)).sample(), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.randn(3))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def wide(x: Tensor) -> None:
    """Have more parameters than a Hessian is computed for, without a closed form."""
    a = pyro.param("a", 0.1 * torch.linspace(-1, 1, 400).sin())
    with pyro.plate("column", 400, dim=-1), pyro.plate("row", 3, dim=-2):
        pyro.sample("x", dist.StudentT(3.0, a + 0.1 * a.roll(1) ** 2, 1.0), obs=x)


def close(n: int = 200) -> Tensor:
    """Two clusters that are hard to tell apart: EM is slow."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    return torch.where(torch.arange(n) % 2 == 0, x, x + 1.5)


ALL = {"starts": 7, "screen": False, "every": 11, "max_steps": 40}


def cases() -> dict[str, Callable[[], Case]]:
    """Return what is fitted: each kind of thing that a fit remembers is in one of them."""
    table = torch.linspace(-2, 2, 1200).reshape(3, 400).sin()
    return {
        "plain": lambda: (mixture, (points(),), {"every": 3}, 20),
        "far apart": lambda: (mixture, (1e4 * points(),), {"every": 2}, 20),
        "several": lambda: (mixture, (close(),), {"starts": 6, "every": 7}, 40),
        "screened": lambda: (mixture, (close(),), {"starts": 12, "every": 3}, 13),
        "all": lambda: (partial(mixture, K=3), (close(),), ALL, 70),
        "squarem": lambda: (mixture, (close(),), {"acceleration": "squarem", "every": 4}, 12),
        "quasi-newton": lambda: (mixture, (close(),), {"acceleration": "quasi-newton", "every": 2}, 12),
        "raced": lambda: (mixture, (close(),), {"acceleration": "quasi-newton", "starts": 8, "every": 9}, 100),
        "auto": lambda: (mixture, (close(),), {"every": 1}, 28),
        "saddle": lambda: (symmetric, (points(),), {"every": 1}, 60),
        "climbed": lambda: (*of("priors_without_conjugacy"), {"every": 1, "max_steps": 60}, 6),
        "exact": lambda: (mixture, (points(),), {"m_step": {"loc": "torch", "scale": "torch"}, "every": 2}, 20),
        "exact and fast": lambda: (
            mixture, (close(),), {"m_step": {"loc": "torch"}, "acceleration": "quasi-newton", "every": 1}, 10
        ),
        "wide": lambda: (wide, (table,), {"every": 1, "max_steps": 25}, 3),
        "network": lambda: (Gate(), lines(), {"every": 5, "max_steps": 25}, 13),
        "drawn": lambda: (drawn, (points(),), {"starts": 2, "every": 4, "max_steps": 40}, 50),
        "chain": lambda: (*of("hmm_ragged"), {"every": 5, "max_steps": 60}, 44),
        "gaussian": lambda: (factor_analysis.factor_analysis, factor_analysis.simulate(seed=0), {"every": 2}, 12),
        "single precision": lambda: (*of("mixed_precision"), {"every": 1}, 4),
    }  # fmt: skip


CASES = tuple(cases())


def fitted(name: str, path: Path | None = None, *, seed: int, killed: bool = False) -> Fit:
    """Fit one of the cases from an empty store; `seed` is that of the draws which the model itself makes."""
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float64)
    model, args, options, turns = cases()[name]()
    torch.manual_seed(seed)
    if killed:
        _kill_at(turns)
    filed = {n: v for n, v in options.items() if path is not None or n != "every"}
    return EM(model, checkpoint=path, **filed).fit(*args)


def _kill_at(turns: int) -> None:
    """Let the process be killed at the beginning of that turn of its loops, counted over all of them."""
    at, left = Journal.at, [turns]

    def counted(self: Journal, *args: Any, **options: Any) -> None:
        at(self, *args, **options)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.at = counted  # type: ignore[method-assign]


def main(folder: Path) -> None:
    """Fork a process for each case, and print how it ended."""
    for name in CASES:
        if (child := os.fork()) == 0:
            fitted(name, folder / f"{name}.pt", seed=0, killed=True)
            os._exit(0)
        sys.stdout.write(f"{name.replace(' ', '_')} {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
