"""Ridges that bend, and kinks: ends that look like maxima and are one of many, or none that a slope tells."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.fit.certificate as certificate
import em_pyro.fit.verdict.ridge as ridge
from em_pyro import EM, Fit

POSITIVE = constraints.positive
Y = torch.linspace(1.0, 5.0, 40).double()
BOTH = torch.cat([Y - 8, Y + 2])
BY_TORCH = {"m_step": {"a": "torch"}}


def real(name: str, value: Any = 1.0) -> Tensor:
    """A real parameter."""
    return pyro.param(name, torch.as_tensor(value, dtype=torch.float64))


def positive(name: str, value: Any = 1.0) -> Tensor:
    """A positive one."""
    return pyro.param(name, torch.as_tensor(value, dtype=torch.float64), constraint=POSITIVE)


def fitted(law: Callable[..., Any], y: Tensor, states: int = 0, **options: Any) -> Fit:
    """Fit one law of all rows, or a mixture of them."""

    def model() -> None:
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(states) / states)) if states else None
            pyro.sample("y", law(z) if states else law(), obs=y)

    pyro.clear_param_store()
    return EM(model, **options).fit()


RIDGES: dict[str, tuple[Callable[[], Any], str]] = {
    "a product": (lambda: dist.Normal(real("a", 1.5) * real("b"), 1.0), "ab"),
    "a ratio": (lambda: dist.Normal(real("a", 1.5) / real("b"), 1.0), "ab"),
    "three factors": (lambda: dist.Normal(real("a", 1.5) * real("b") * real("c", 1.2), 1.0), "abc"),
    "a circle": (lambda: dist.Normal((real("a", 1.5) ** 2 + real("b") ** 2).sqrt(), 1.0), "ab"),
    "two scales": (lambda: dist.Normal(3.0, positive("a", 1.5) * positive("b")), "ab"),
    "two scales added": (lambda: dist.Normal(3.0, (positive("a") ** 2 + positive("b", 0.5) ** 2).sqrt()), "ab"),
    "a sine": (lambda: dist.Normal(torch.sin(real("a", 0.8)) * real("b") * 3, 1.0), "ab"),
    "a rate": (lambda: dist.Gamma(2.0, positive("a") * positive("b", 2.0) + 0.01), "ab"),
}


@pytest.mark.parametrize(
    ("name", "by_torch"), [*((name, False) for name in RIDGES), *((name, True) for name in list(RIDGES)[::2])]
)
def test_a_ridge_is_not_identified(name: str, by_torch: bool) -> None:  # noqa: FBT001
    """All that moves along it is named, whatever has found it."""
    law, names = RIDGES[name]
    fit = fitted(law, Y, **(BY_TORCH if by_torch else {}))
    assert fit.converged
    note = next(note for note in fit.notes if "not identified" in note)
    assert all(f'"{name}"' in note for name in names)


STATES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one factor": (lambda z: dist.Normal(real("a", [-2.0, 1.0])[z] * real("b"), 1.0), "one direction"),
    "each a factor": (lambda z: dist.Normal(real("a", [-2.0, 1.0])[z] * real("b", [1.0, 1.3])[z], 1.0), "2 directions"),
    "factor and shift": (lambda z: dist.Normal(real("a", [-2.0, 1.0])[z] * real("b") + real("c", 0.3), 1.0), "2 dir"),
}


@pytest.mark.parametrize("name", STATES)
def test_ridges_of_mixtures(name: str) -> None:
    """A latent changes nothing of it."""
    law, many = STATES[name]
    fit = fitted(law, BOTH, 2)
    assert fit.converged
    assert any("not identified" in note and many in note for note in fit.notes)


def test_a_top_that_is_flat_to_fourth_order_is_no_ridge() -> None:
    """Climbing back leads nowhere from beside it; from a ridge it leads onto it."""
    flat: Callable[[Tensor], Tensor] = lambda v: -(v[:, 0] ** 4) - (v[:, 1] - v[:, 0]) ** 2  # noqa: E731
    bent: Callable[[Tensor], Tensor] = lambda v: -((v[:, 1] - v[:, 0] ** 2) ** 2)  # noqa: E731
    kink: Callable[[Tensor], Tensor] = lambda v: -v[:, 0].abs() - v[:, 1] ** 2  # noqa: E731

    def is_ridge(height: Callable[[Tensor], Tensor]) -> bool:
        class Ground:
            def heights(self, points: Tensor) -> Tensor:
                return height(points)

            def slopes(self, points: Tensor) -> Tensor:
                leaf = points.clone().requires_grad_()
                return torch.autograd.grad(height(leaf).sum(), leaf)[0]

        back = tensor([[0.0], [0.5**0.5]], dtype=torch.float64)
        return ridge.is_ridge(Ground(), tensor([1.0, 0.0], dtype=torch.float64), back, torch.ones(2), 0.0)  # type: ignore[arg-type]

    assert is_ridge(bent)
    assert not is_ridge(flat)
    assert not is_ridge(kink)


KINKS: dict[str, tuple[Callable[[], Any], str]] = {
    "abs": (lambda: dist.Normal(-real("a", 1.5).abs(), 1.0), '"a"'),
    "abs beside a line": (lambda: dist.Normal(-real("a", 1.5).abs() - 0.5 * real("a", 1.5), positive("s")), '"a"'),
    "a scale": (lambda: dist.Normal(Y, 1 + real("a", 1.5).abs()), '"a"'),
    "max": (
        lambda: dist.Normal(-torch.max(real("a", [1.5, 2.0])) + real("a", [1.5, 2.0]).min(), 1.0),
        '"a"[0], "a"[1]',
    ),
    "a root": (lambda: dist.Normal(-real("a", 1.5).abs().sqrt(), 1.0), '"a"'),
    "a difference": (lambda: dist.StudentT(3.0, -(real("a", 1.5) - real("b", 0.3)).abs(), 1.0), '"a", "b"'),
}


KINDS = {**{name: (name, {}) for name in KINKS}, "abs, by torch": ("abs", BY_TORCH), "max, by torch": ("max", BY_TORCH)}


@pytest.mark.parametrize(("name", "options"), KINDS.values(), ids=KINDS)
def test_a_kink_is_named(name: str, options: dict[str, Any]) -> None:
    """The slope does not vanish there: it jumps, which is said, and the end is not confirmed."""
    law, names = KINKS[name]
    fit = fitted(law, Y, **options)
    assert fit.outcome == "unconfirmed"
    assert any("kink" in note and names in note for note in fit.notes)


def test_a_kink_that_the_maximum_is_not_at() -> None:
    """The maximum of the same function where its slope vanishes is one; without the look nothing is said of a kink."""
    fit = fitted(lambda: dist.Normal(real("a", 1.5).abs(), 1.0), Y)
    assert fit.converged
    assert abs(abs(float(fit.params["a"])) - 3.0) < 1e-6


def test_kinks_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that the end would be believed."""
    monkeypatch.setattr(certificate, "kinks", lambda *_: [])
    assert fitted(KINKS["abs"][0], Y).converged
