"""Gauss rules are exact where they claim to be."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from torch import Tensor

from em_pyro.errors import ParameterError
from em_pyro.quadrature import Quadrature, quadrature


def scalar(value: float) -> Tensor:
    """Make a float64 scalar."""
    return torch.tensor(value, dtype=torch.float64)


def moments(law: dist.TorchDistribution, degree: int) -> list[float]:
    """Raw moments `E[x^0], ..., E[x^degree]` by the recurrences of textbooks, independent of any quadrature."""
    m = [1.0]
    for k in range(1, degree + 1):
        match law:
            case dist.Normal():
                m.append(float(law.loc * m[-1] + (k - 1) * law.scale**2 * (m[-2] if k > 1 else 0.0)))
            case dist.Gamma():
                m.append(float(m[-1] * (law.concentration + k - 1) / law.rate))
            case dist.Beta():
                a, b = law.concentration1, law.concentration0
                m.append(float(m[-1] * (a + k - 1) / (a + b + k - 1)))
            case dist.Uniform():
                low, high = float(law.low), float(law.high)
                m.append((high ** (k + 1) - low ** (k + 1)) / ((k + 1) * (high - low)))
    return m


LAWS = {
    "normal": dist.Normal(scalar(0.0), scalar(1.0)),
    "normal_shifted": dist.Normal(scalar(-1.3), scalar(0.4)),
    "uniform": dist.Uniform(scalar(-1.0), scalar(1.0)),
    "uniform_shifted": dist.Uniform(scalar(0.5), scalar(3.0)),
    "exponential": dist.Gamma(scalar(1.0), scalar(1.0)),
    "gamma": dist.Gamma(scalar(3.7), scalar(2.5)),
    "gamma_peaked_at_zero": dist.Gamma(scalar(0.05), scalar(0.3)),
    "arcsine": dist.Beta(scalar(0.5), scalar(0.5)),
    "beta_sum_one": dist.Beta(scalar(0.3), scalar(0.7)),
    "beta_sum_two": dist.Beta(scalar(1.5), scalar(0.5)),
    "beta": dist.Beta(scalar(2.0), scalar(5.0)),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


def moments_wrong(rule: Quadrature, law: dist.TorchDistribution, degree: int) -> bool:
    """Say whether any moment up to `degree` differs from the truth, relative to the mean absolute monomial."""
    weights, x = rule.log_weights.exp(), rule.nodes
    return any(
        abs(float((weights * x**k).sum()) - m) > IDENTITY * max(float((weights * x.abs() ** k).sum()), abs(m))
        for k, m in enumerate(moments(law, degree))
    )


@laws
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12])
def test_polynomials_of_degree_2n_minus_1_are_exact_and_no_more(law: dist.TorchDistribution, n: int) -> None:
    """Check the defining property of a Gauss rule, and that the next degree fails."""
    rule = quadrature(law, n)
    assert not moments_wrong(rule, law, 2 * n - 1)
    # The first polynomial that no rule of n nodes integrates is the square of its own node polynomial.
    node_polynomial = (rule.nodes[:, None] - rule.nodes).prod(-1) ** 2
    assert float((rule.log_weights.exp() * node_polynomial).sum()) == 0.0
    fine = quadrature(law, n + 1)
    assert float((fine.log_weights.exp() * (fine.nodes[:, None] - rule.nodes).prod(-1) ** 2).sum()) > 0.0


@laws
def test_a_weight_wrong_by_a_thousandth_is_noticed(law: dist.TorchDistribution) -> None:
    """Plant a wrong weight and wrong nodes: the moments see both."""
    rule = quadrature(law, 5)
    wrong = rule.log_weights.clone()
    wrong[2] += 1e-3
    assert moments_wrong(Quadrature(rule.nodes, wrong), law, 9)
    assert moments_wrong(Quadrature(rule.nodes * 1.001, rule.log_weights), law, 9)


@laws
@pytest.mark.parametrize("n", [2, 41, 201])
def test_a_rule_is_a_distribution_with_the_right_mean_and_variance(law: dist.TorchDistribution, n: int) -> None:
    """Check that weights sum to one and nodes increase inside the support, for small and large rules."""
    rule = quadrature(law, n)
    assert rule.nodes.shape == rule.log_weights.shape == (n,)
    assert rule.log_weights.isfinite().all()
    assert rule.nodes.diff().min() > 0
    assert law.support is not None
    assert law.support.check(rule.nodes).all()
    assert float(rule.log_weights.logsumexp(0)) == pytest.approx(0.0, abs=IDENTITY)
    assert float(rule.mean) == pytest.approx(float(law.mean), abs=IDENTITY * (1 + abs(float(law.mean))))
    assert float(rule.variance) == pytest.approx(float(law.variance), abs=IDENTITY * (1 + float(law.variance)))


@pytest.mark.parametrize("n", [1, 2, 7, 41, 100])
@pytest.mark.parametrize(
    ("law", "oracle"),
    [
        (LAWS["normal"], np.polynomial.hermite_e.hermegauss),
        (LAWS["uniform"], np.polynomial.legendre.leggauss),
        (LAWS["exponential"], np.polynomial.laguerre.laggauss),
    ],
    ids=["hermite", "legendre", "laguerre"],
)
def test_agrees_with_numpy(law: dist.TorchDistribution, oracle: Callable[[int], tuple[Any, Any]], n: int) -> None:
    """Compare with numpy's rules, found by another algorithm."""
    nodes, weights = oracle(n)
    rule = quadrature(law, n)
    np.testing.assert_allclose(rule.nodes, nodes, rtol=IDENTITY, atol=IDENTITY)
    np.testing.assert_allclose(rule.log_weights.exp(), weights / weights.sum(), rtol=0, atol=IDENTITY)


@pytest.mark.parametrize("degree", [2, 100, 300, 400])
def test_the_tails_of_201_hermite_nodes_are_right_in_log_space(degree: int) -> None:
    """`E[x^400]` overflows and comes from weights below 1e-80; its logarithm is known.

    The even moments of a standard normal are `2^k Gamma(k + 1/2) / sqrt(pi)` for degree `2 k`.
    """
    rule = quadrature(LAWS["normal"], 201)
    assert float(rule.log_weights.min()) < -370  # underflows in float32, and in float64 from 400 nodes on
    half = rule.nodes > 0
    got = float((rule.log_weights + degree * rule.nodes.log())[half].logsumexp(0)) + math.log(2)
    k = degree // 2
    expected = k * math.log(2) + math.lgamma(k + 0.5) - 0.5 * math.log(math.pi)
    assert got == pytest.approx(expected, abs=IDENTITY * (1 + abs(expected)))


def test_a_thousand_nodes_do_not_overflow() -> None:
    """Run the recurrence where unscaled polynomials exceed float64."""
    rule = quadrature(LAWS["normal"], 1000)
    assert float(rule.log_weights.min()) < -1900
    assert rule.log_weights.isfinite().all()
    assert float(rule.variance) == pytest.approx(1.0, abs=IDENTITY)


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_symmetric_laws_have_exactly_symmetric_rules(name: str, n: int) -> None:
    """Check that the halves mirror each other to the last bit."""
    rule = quadrature(LAWS[name], n)
    assert torch.equal(rule.log_weights, rule.log_weights.flip(0))
    assert torch.equal(rule.nodes, -rule.nodes.flip(0))


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_parameter_inside_is_refused_with_the_rewrite() -> None:
    """Refuse arguments that require a gradient, in every family, by name; a `pyro.param` is one."""
    free, fixed = scalar(1.0).requires_grad_(), scalar(0.5)
    wrong: dict[str, dist.TorchDistribution] = {
        "scale": dist.Normal(fixed, free),
        "concentration": dist.Gamma(free, fixed),
        "concentration1, concentration0": dist.Beta(fixed, free),
        "high": dist.Uniform(fixed, 2 * free),
    }
    for names, law in wrong.items():
        with pytest.raises(ParameterError, match=rf"got a parameter in \w+\({names}\), .*loc \+ scale \* z"):
            quadrature(law, 5)
    with pyro.get_param_store().scope(), pytest.raises(ParameterError, match=r"Normal\(loc\)"):
        quadrature(dist.Normal(pyro.param("m", fixed), 1.0), 5)


def test_other_refusals() -> None:
    """Refuse unknown families, batches, wrong counts and nodes that a dtype cannot separate."""
    with pytest.raises(ParameterError, match=r"expected one of Normal, Uniform, Gamma, Beta, got Cauchy"):
        quadrature(dist.Cauchy(0.0, 1.0), 5)
    with pytest.raises(ParameterError, match=r"expected one of"):
        quadrature(dist.LogNormal(0.0, 1.0), 5)  # a transformed Normal is not a Normal
    with pytest.raises(ParameterError, match=r"batch shape \(3,\)"):
        quadrature(dist.Normal(torch.zeros(3), 1.0), 5)
    for wrong in (0, 2.5, True):
        with pytest.raises(ParameterError, match="number of nodes"):
            quadrature(dist.Normal(0.0, 1.0), wrong)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="float64"):
        quadrature(dist.Normal(torch.tensor(1e8, dtype=torch.float32), 1.0), 41)
    chi2 = quadrature(dist.Chi2(scalar(4.0)), 6)  # accepted: a chi-squared law is a Gamma law
    assert torch.equal(chi2.nodes, quadrature(dist.Gamma(scalar(2.0), scalar(0.5)), 6).nodes)
