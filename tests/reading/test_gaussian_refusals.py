"""No program with normal latents is answered that is not linear in them; each refusal names the site and the operation.

And those that are, however they are written, are answered, with the evidence of a dense normal law.
"""

import re
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.integrated import Integrated
from oracles.refusals import refuse
from oracles.steps import expect
from oracles.tolerances import IDENTITY
from programs.not_affine import (
    AFFINE,
    BAGS,
    BESIDE,
    CHOICES,
    CURVED,
    OTHER_LAWS,
    PARAMETERS,
    PRODUCTS,
    READ,
    WHOLE,
    located,
    program,
)
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.nn.functional import embedding_bag

from em_pyro import EM
from em_pyro.errors import ModelError
from em_pyro.fit.problem import prepare
from em_pyro.reading.latents import degree


def observations(seed: int = 3) -> Tensor:
    """Six rows of two positive numbers."""
    return 0.1 + torch.rand((6, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def said(model: Callable[[Tensor], None], x: Tensor | None = None) -> str:
    """Return what is said of a program that is refused; fail if it is answered."""
    pyro.clear_param_store()
    with pytest.raises(ModelError) as caught:
        prepare(model, (observations() if x is None else x,), {}, {}, check=True)
    message = str(caught.value)
    assert re.search(r": expected .*, got .*\. [A-Z].*\.$", message, re.DOTALL), f"not in house form: {message}"
    return message


@pytest.mark.parametrize("name", CURVED)
def test_not_polynomial(name: str) -> None:
    """The site is named, and the operation."""
    location, operation = CURVED[name]
    assert re.search(rf'^Site "x": .* affine .* nonlinearly through \w*{operation}', said(located(location)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_latents(name: str) -> None:
    """Also where they are multiplied by nothing."""
    assert re.search(r'^Site "x": .* as a product of latents', said(located(PRODUCTS[name])))


@pytest.mark.parametrize("name", READ)
def test_numbers_read_out_of_latents(name: str) -> None:
    """What became of them is not known any more: the program is refused, whatever it did with them."""
    assert re.search(r'^The model: expected no branch .* depends on "z"', said(located(READ[name])))


@pytest.mark.parametrize("name", BESIDE)
def test_latents_beside_the_location(name: str) -> None:
    """In a scale, in a covariance, in a mask; the latent is named."""
    law, what = BESIDE[name]
    text = said(program(law))
    assert re.search(rf'^Site "x": expected latents in the location alone, got {what}', text)
    assert 'Integrate "z" by em_pyro.quadrature' in text


@pytest.mark.parametrize("name", OTHER_LAWS)
def test_other_laws(name: str) -> None:
    """Also where the latent is inside of what the law is made of."""
    text = said(program(OTHER_LAWS[name]), torch.ones(6, 2))
    assert re.search(rf'^Site "x": expected Normal, .* got {name}.*Integrate "z" by em_pyro', text)


def normal(loc: Tensor, scale: float = 1.0) -> dist.MultivariateNormal:
    """Of two numbers, beside any number of steps."""
    return dist.MultivariateNormal(loc, scale_tril=scale * torch.eye(loc.shape[-1]).to(loc))


ONE = torch.eye(2).double()
INSIDE: dict[str, Callable[[Tensor], dist.TorchDistribution]] = {
    "IndependentHMM": lambda z: dist.IndependentHMM(
        dist.GaussianHMM(
            normal(z[:, None]),
            tensor([[[[1.0]]]]).double().expand(2, 1, 1, 1),
            normal(torch.zeros(2, 1, 1).double()),
            tensor([[[[1.0]]]]).double().expand(2, 1, 1, 1),
            normal(torch.zeros(2, 1, 1).double(), 0.5),
            duration=6,
        )
    ),
    "GammaGaussianHMM": lambda z: dist.GammaGaussianHMM(
        dist.Gamma(3.0, 3.0), normal(z), ONE, normal(0 * z), ONE, normal(0 * z, 0.5), duration=6
    ),
    "GaussianMRF": lambda z: dist.GaussianMRF(
        normal(z), normal(torch.zeros(4).double(), 2.0), normal(torch.zeros(6, 4).double())
    ),
    "LinearHMM": lambda z: dist.LinearHMM(
        normal(z), ONE, normal(0 * z), ONE, dist.StudentT(5.0, 0 * z, 1.0).to_event(1), duration=6
    ),
}
"""Laws that hold their arguments inside of something else than tensors and distributions."""


@pytest.mark.parametrize("name", INSIDE)
def test_latents_inside_of_what_a_law_is_made_of(name: str) -> None:
    """They had been overlooked, and were integrated as if nothing had been observed of them."""

    def model(x: Tensor) -> None:
        spread = pyro.param("spread", tensor(1.0).double(), constraint=constraints.positive)
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), spread).to_event(1))
        pyro.sample("x", INSIDE[name](z), obs=x)

    text = said(model)
    assert re.search(rf'^Site "x": expected (Normal, .* got|a distribution that has a density, got) {name}', text)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_bend(name: str) -> None:
    """Affine in the latents is enough."""
    check_answered(located(PARAMETERS[name]))


@pytest.mark.parametrize("name", WHOLE)
def test_whole_programs(name: str) -> None:
    """Weights, choices, switching, factors."""
    model, pattern = WHOLE[name]
    assert re.search(pattern, said(model), re.DOTALL)


@pytest.mark.parametrize("name", ["clamp", "a little sine"])
def test_every_method_refuses(name: str) -> None:
    """At once and again, with the store and the generator as they were."""
    refuse("model", r'^Site "x": expected a residual that is affine', located(CURVED[name][0]), observations())


def check_answered(model: Callable[[Tensor], None], rows: int = 6) -> None:
    """The evidence is that of a dense normal law."""
    x = observations()[:rows]
    problem = prepare(model, (), {"x": x}, {}, check=True)
    brute = Integrated(model, {"x": x}, ("z",))
    assert set(problem.program.integrated) == {"z"}
    got = expect(problem.engine, brute.start).objective
    assert distance(got.squeeze(), brute.objective(brute.start)) < IDENTITY


@pytest.mark.parametrize("name", AFFINE)
def test_affine_programs_are_answered(name: str) -> None:
    """However they are written."""
    check_answered(located(AFFINE[name]))


def test_a_sparse_matrix_is_answered_as_a_dense_one() -> None:
    """It has no storage to go by."""
    dense, found = tensor([[0.0, 1.0], [2.0, 0.0]]), []
    for matrix in (dense, dense.to_sparse()):
        pyro.clear_param_store()
        model = located(lambda z, W, matrix=matrix: torch.mm(matrix, z.T).T * W[0])  # type: ignore[misc]
        found.append(EM(model).posterior(observations()).log_evidence)
    assert distance(found[1], found[0]) < IDENTITY


@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("mean", False), ("sum", True)])
def test_bags_of_latents_are_answered_as_sums(mode: str, weighted: bool) -> None:  # noqa: FBT001
    """Rows of a table that are added up, with weights or none; torch has no second derivative of these."""
    weights = torch.linspace(0.5, 1.5, 12).double().reshape(6, 2) if weighted else torch.ones(6, 2).double()
    found = []
    for bag in (
        lambda z: embedding_bag(BAGS, z, mode=mode, per_sample_weights=weights if weighted else None),
        lambda z: getattr(z[BAGS] * weights[..., None], mode)(1),
    ):
        pyro.clear_param_store()
        model = located(lambda z, W, bag=bag: bag(z) @ W.T)  # type: ignore[misc]
        found.append(EM(model).fit(observations()).objective)
    assert distance(tensor(found[1]), tensor(found[0])) < IDENTITY


@pytest.mark.parametrize("name", CHOICES)
def test_choices_of_latents_are_answered(name: str) -> None:
    """By a discrete latent of the same row."""
    check_answered(CHOICES[name], rows=3)


def test_a_mean_over_many_rows_is_refused() -> None:
    """A cell that has as many latents as there are rows would make every matrix a whole one."""
    x = observations().repeat(400, 1)
    with pytest.raises(ModelError, match="expected cells that have few of the 4,800 continuous latent entries each"):
        prepare(located(AFFINE["less their mean"]), (x,), {}, {}, check=True)


# ---- the checks are checked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a little sine", "no rounding"])
def test_an_operation_too_many_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it taken for a linear one, the program would be answered: nothing but the proof sees the difference."""
    location, operation = CURVED[name]
    monkeypatch.setattr(degree, "LINEAR", degree.LINEAR | {operation})
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        said(located(location))


def test_products_taken_for_sums_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing times a square would be answered."""
    monkeypatch.setitem(degree.ALGEBRA, "mul", max)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        said(located(PRODUCTS["nothing times a square"]))


def test_a_latent_that_leaves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were nothing known of `numpy`, a location would be taken for data."""
    monkeypatch.setattr(degree, "LEAVES", frozenset[str]())
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        said(located(READ["array"]))


def test_another_evidence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense law of other latents has another evidence."""
    right = Integrated.log_joint
    monkeypatch.setattr(Integrated, "log_joint", lambda self, params, states, z: right(self, params, states, 1.001 * z))
    with pytest.raises(AssertionError):
        check_answered(located(AFFINE["loadings"]))


@pytest.mark.parametrize("flat", [True, False])
def test_a_latent_that_nothing_determines(flat: bool) -> None:  # noqa: FBT001
    """Two without a prior of which only the sum is seen: both are named; with a prior for one of them it is a law."""
    zero = torch.zeros((), dtype=torch.float64)

    def model(x: Tensor) -> None:
        sigma = pyro.param("sigma", zero + 1, constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).mask(False))  # noqa: FBT003
            w = pyro.sample("w", dist.Normal(zero, 1.0).mask(not flat))
            pyro.sample("x", dist.Normal(z + w, sigma), obs=x)

    x = torch.linspace(-1.0, 2.0, 9).double()
    chosen = {"z": "integrate", "w": "integrate"}
    if flat:
        refuse("model", r'^Site "z": .* that neither does beside w: its law has no bound', model, x, continuous=chosen)
    else:
        EM(model, continuous=chosen).plan(x)
