"""What a closer look at the end of a fit has found."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from ...records.frozen import frozen

PROMISED = 10.0  # times the tolerance: a gain by the slope that is none of a maximum
ROUNDING = 1e-8  # relative to 1 + |objective|: of a promise: no tolerance asks for less
BENT = 0.01  # curvature of a top, of that in complete data: from beside it EM comes back, by no less of the way a step


def believed(objective: float, tol: float) -> float:
    """Return the nats that speak against no maximum, at a tolerance."""
    return max(PROMISED * tol, ROUNDING) * (1 + abs(objective))


@frozen
class Findings:
    """What a closer look at the end of a fit has found.

    Attributes:
        gain: nats that the slope promises to a step by the information in complete data.
        notes: what is at a boundary, runs to infinity, or is not identified; or that this was not looked at.
        along: the entries whose slope is steepest.
        noise: nats by which the last digits of the parameters move the objective, and of which entries.
        higher: nats by which it is higher a small part of a standard error away, and where.
        plateau: nats by which it is higher at another value of an entry that has no slope, and where.
        hidden: which rows have no slope and would be far likelier elsewhere.
        undefined: the entries by which the objective has no finite slope.
        kinks: the entries at which the slope jumps, so that it vanishes nowhere near.
        endless: the largest of the positive numbers that run to infinity; zero if none does.
        ends: the parameters with an entry at a boundary, or on its way to infinity.
        least: the smallest curvature along any direction that has a coordinate, of that in complete data; zero where
            some were not looked at.
        left: nats still to gain by the slope and that curvature.
    """

    gain: float
    notes: tuple[str, ...]
    along: str = ""
    noise: tuple[float, str] = (0.0, "")
    higher: tuple[float, str] = (0.0, "")
    plateau: tuple[float, str] = (0.0, "")
    hidden: str = ""
    undefined: str = ""
    kinks: str = ""
    endless: float = 0.0
    ends: frozenset[str] = frozenset()
    least: float = 0.0
    left: float = inf

    def noted(self, *notes: str) -> Findings:
        """Add notes."""
        return replace(self, notes=(*self.notes, *notes))

    def peaked(self, objective: float, tol: float, margin: float) -> bool:
        """Whether this is a maximum beyond doubt: all ways lead down, from a top no higher than by `margin`."""
        return self.least >= BENT and self.left <= margin and not self.doubt(objective, tol)

    def doubt(self, objective: float, tol: float) -> str:
        """Say why this is no maximum at a tolerance: the slope, or an objective without digits; empty if it is one."""
        allowed = believed(objective, tol)
        if self.undefined:
            return (
                f"torch has no finite slope of the objective at {self.undefined}, so nothing tells a maximum; give "
                f"them a prior or bounds, or keep their functions in the model differentiable there (xlogy, where)"
            )
        if self.gain > allowed:
            return f"the slope is not zero: it promises {self.gain:.3g} nats to the next step, along {self.along}"
        if self.noise[0] > allowed:
            nats, where = self.noise
            return (
                f"the objective has lost its digits: the last ones of {where} move it by {nats:.3g} nats, so that it "
                f"runs to infinity, or to where the density is rounding; give it a prior, or bounds"
            )
        if self.kinks:
            return (
                f"the slope jumps at {self.kinks}, a kink: it vanishes nowhere near, so that no slope tells a maximum, "
                f"and standard errors have no meaning there"
            )
        if self.plateau[0] > allowed:
            nats, where = self.plateau
            return (
                f"the objective is level here and {nats:.3g} nats higher at {where}: no slope leads away from a "
                f"plateau, so start elsewhere"
            )
        if self.hidden:
            return (
                f"{self.hidden}: a clamp, or a function that is saturated, hides them, so that no slope tells a "
                f"maximum; start elsewhere, or write logits in the place of probabilities"
            )
        if self.higher[0] > allowed:
            nats, where = self.higher
            return (
                f"the objective is {nats:.3g} nats higher a part of a standard error from here along {where}, though "
                f"its slope is zero: take other starts, or, if a parameter runs to infinity where densities lose their "
                f"digits, give it a prior or bounds"
            )
        return ""
