"""Fixed-point maps with known answers, which have nothing to do with EM."""

import math

import torch
from torch import Tensor

from em_pyro.fit.acceleration.squarem import Squarem, Step, squarem

F64 = torch.float64


def error(x: Tensor, answer: Tensor) -> float:
    """Return the largest difference relative to one plus the answer; a NaN counts as infinite."""
    return float(((x - answer).abs() / (1 + answer.abs())).max().nan_to_num(nan=math.inf))


def vector(*values: float) -> Tensor:
    """Make a float64 vector."""
    return torch.tensor(values, dtype=F64)


def symmetric(eigenvalues: Tensor, seed: int) -> Tensor:
    """Make a symmetric matrix with given eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=F64)).Q
    return (basis * eigenvalues) @ basis.T


def falls(path: list[float]) -> bool:
    """Say whether an objective falls beyond rounding anywhere on its path."""
    return any(not after >= before - 1e-10 * (1 + abs(before)) for before, after in zip(path, path[1:], strict=False))


class Problem:
    """A monotone fixed-point map with a known answer, counting its evaluations."""

    def __init__(self, advance: Step, start: Tensor, answer: Tensor) -> None:
        """Start from `start`; the map's fixed point is `answer`."""
        self.advance, self.start, self.answer, self.evaluations = advance, start, answer, 0

    def __call__(self, x: Tensor) -> tuple[Tensor, float]:
        """Evaluate the map once."""
        self.evaluations += 1
        return self.advance(x)

    def plain(self, accuracy: float) -> int:
        """Count plain evaluations until the point is within `accuracy` of the answer."""
        x, self.evaluations = self.start, 0
        while error(x, self.answer) > accuracy and self.evaluations < 100_000:
            x, _ = self(x)
        return self.evaluations

    def accelerated(self, accuracy: float, *, max_cycles: int = 5_000) -> tuple[Squarem, list[float], Tensor]:
        """Return the state, the objective at the start of each cycle and at the end, and the point."""
        x, state, path, self.evaluations = self.start, Squarem(), [], 0
        while error(x, self.answer) > accuracy and state.cycles < max_cycles:
            x, objective, state = squarem(self, x, state)
            path.append(objective)
        assert state.evaluations == self.evaluations
        return state, [*path, self.advance(x)[1]], x


def contraction() -> Problem:
    """Contract linearly towards a point at rates 0.2 to 0.99; the objective is minus the squared distance."""
    A, answer = symmetric(vector(0.2, 0.5, 0.9, 0.98, 0.99), seed=1), vector(1, -2, 3, 0, 5)
    return Problem(lambda x: (answer + A @ (x - answer), -float((x - answer).square().sum())), answer + 1, answer)


def gradient_descent() -> Problem:
    """Minimise `x H x / 2 - h x` with condition number 500 by gradient descent with step one over the largest."""
    H, h = symmetric(torch.logspace(0, math.log10(500), 8, dtype=F64), seed=2), vector(*range(1, 9))
    return Problem(
        lambda x: (x - (H @ x - h) / 500, -float(x @ H @ x / 2 - h @ x)),
        torch.zeros(8, dtype=F64),
        torch.linalg.solve(H, h),
    )


def power_iteration() -> Problem:
    """Find the leading eigenvector of a positive matrix; the objective is the Rayleigh quotient. Nonlinear."""
    A = symmetric(vector(0.1, 0.3, 0.6, 0.9, 0.97, 1.0), seed=3)
    answer = torch.linalg.eigh(A).eigenvectors[:, -1]
    start = answer + 0.5 * torch.linalg.eigh(A).eigenvectors[:, :-1].sum(1)
    return Problem(lambda x: (A @ x / (A @ x).norm(), float(x @ A @ x / (x @ x))), start / start.norm(), answer)


def cosine() -> Problem:
    """Iterate the cosine to Dottie's number, the maximum of `sin x - x^2 / 2`. The rate is -0.67: it alternates."""
    return Problem(lambda x: (x.cos(), float(x.sin() - x**2 / 2)), vector(0.1), vector(0.7390851332151607))


def babylonian() -> Problem:
    """Take the square root of two by averaging `x` and `2 / x`, from far away; halves first, then quadratic."""
    return Problem(lambda x: ((x + 2 / x) / 2, -float((x**2 - 2) ** 2)), vector(1e6), vector(2**0.5))
