"""The theorem, as one function."""

from __future__ import annotations

from torch import Tensor

from ..e_step.engine import Engine, Expectation
from ..m_step.ascent.ascend import Carried
from ..m_step.maximise import maximise
from ..m_step.plan import Plan
from ..program.named import Params


def em_step(
    engine: Engine, plan: Plan, params: Params, lead: int = 0, carried: Carried | None = None
) -> tuple[dict[str, Tensor], Expectation]:
    """One step of Expectation-Maximisation.

    With site factors `L_s(z_s; theta)` of the log-joint, and `log Z(theta)` their log-sum-product over the latents:

        E-step.  W_s = d log Z / d L_s, the posterior of what site s depends on;  S_s = <W_s, T_s(x)>.
        M-step.  argmax_theta sum_s <S_s, eta_s(theta)> + log prior(theta).

    `lead` dimensions of starts may stand before those of every parameter; `carried` is what Adam remembers of the steps
    before, where a network is fitted.

    Returns:
        The new parameters, and what the E-step found at `params`, the objective among it.

    References: Dempster, Laird & Rubin (1977), section 2.
    """
    found = engine.expect(params, lead)
    return maximise(engine, plan, found, params, lead, carried), found
