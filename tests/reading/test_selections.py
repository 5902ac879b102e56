"""Arguments that are plain selections of parameters, or constants, are found; so are their shapes."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, hidden_markov, latent_classes
from oracles.m_steps import Model, check_closed, how, same, step
from programs.probed import N, bits, locations, mixture, positive, real, unit
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.problem import prepare

SELECTIONS: dict[str, tuple[Model, tuple[Any, ...]]] = {
    "mixture": (gaussian_mixture.full, (real(N, 2),)),
    "mixture, tied": (gaussian_mixture.tied, (real(N, 2),)),
    "mixture, diagonal": (gaussian_mixture.diagonal, (real(N, 2),)),
    "mixture, spherical": (gaussian_mixture.spherical, (real(N, 2),)),
    "latent classes": (latent_classes.latent_classes, ((real(N, 3) > 0).long(),)),
    "hidden Markov, Normal": (hidden_markov.gaussian, (real(2, 5),)),
    "hidden Markov, multivariate": (hidden_markov.multivariate, (real(2, 5, 2),)),
    "hidden Markov, Poisson": (hidden_markov.poisson, (real(2, 5).abs().ceil(),)),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections(name: str) -> None:
    """Every parameter of the textbook models is closed form."""
    model, args = SELECTIONS[name]
    assert set(how(model, *args).values()) == {"closed form"}


def test_parameters_that_start_equal_are_told_apart() -> None:
    """Values at the start are not looked at: two means that start equal are two means."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("loc", torch.zeros(2))[z], tensor([0.5, 2.0])[z])

    closed = check_closed(mixture(of), real(N) + 1)
    assert closed.params["loc"][0] != closed.params["loc"][1]


def test_an_argument_stacked_from_several_parameters() -> None:
    """One argument, three parameters and a constant."""

    def of(z: Tensor) -> Any:
        a, b = pyro.param("a", tensor(-1.0)), pyro.param("b", tensor([0.5]))
        return dist.Normal(torch.stack([a, b[0], tensor(3.0)])[z], 1.0)

    def model(x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.3, 0.2])))
            pyro.sample("x", of(z), obs=x)

    check_closed(model, real(N) * 2)


def test_a_probability_and_its_complement() -> None:
    """`torch.stack([p, 1 - p])` is a row of Categorical probabilities, and `1 - p` one of Bernoulli."""

    def model(x: Tensor, y: Tensor) -> None:
        p, q = unit("p", 0.3)[0], unit("q", 0.2, 0.6)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.stack([p, 1 - p])))
            pyro.sample("x", dist.Bernoulli(1 - q[z]), obs=x)
            pyro.sample("y", dist.Bernoulli(q[1 - z]), obs=y)

    check_closed(model, bits(), bits().flip(0))


def test_a_choice_by_arithmetic_is_a_selection() -> None:
    """`a (1 - z) + b z` is `a` or `b`."""

    def model(x: Tensor) -> None:
        a, b = pyro.param("a", tensor(-1.0)), pyro.param("b", tensor(1.5))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(tensor(0.4)))
            pyro.sample("x", dist.Normal(a * (1 - z) + b * z, 1.0), obs=x)

    check_closed(model, real(N))


# ---- constants, triangles, symmetry ----------------------------------------------------------------------------------


def test_constants_are_no_parameters() -> None:
    """An entry that is 0 or 1 in every replay is a constant, whatever parameter happens to start there."""

    def of(z: Tensor) -> Any:
        loc = torch.stack([torch.zeros(()), pyro.param("loc", tensor(0.0))])
        return dist.Normal(loc[z], torch.stack([torch.ones(()), positive("scale", 1.0)[0]])[z])

    check_closed(mixture(of), real(N) + 1)


def test_zeros_of_a_triangle() -> None:
    """Zeros above the diagonal of every factor are no entries of anything."""

    def of(z: Tensor) -> Any:
        root = tensor([[[1.0, 0.0], [0.3, 1.0]], [[2.0, 0.0], [0.0, 1.0]]])
        tril = pyro.param("tril", root, constraint=constraints.lower_cholesky)
        return dist.MultivariateNormal(torch.zeros(2), scale_tril=tril[z])

    new = check_closed(mixture(of), real(N, 2)).params
    assert new["tril"][:, 0, 1].eq(0).all()


def test_entries_of_a_symmetric_matrix() -> None:
    """`S[0, 1]` and `S[1, 0]` are equal in every replay: neither is a free location."""

    def of(z: Tensor) -> Any:
        S = pyro.param("S", torch.eye(2) + 0.2, constraint=constraints.positive_definite)
        return dist.Normal(S.reshape(-1)[1:3][z], 1.0)

    assert how(mixture(of), real(N)) == {"S": "torch"}


def test_a_symmetric_matrix_whole() -> None:
    """A covariance is selected whole, and its maximum is symmetric."""

    def of(z: Tensor) -> Any:
        S = pyro.param("S", torch.eye(2).expand(2, 2, 2) + 0.2, constraint=constraints.positive_definite)
        return dist.MultivariateNormal(tensor([[-1.0, 0.0], [1.0, 0.0]])[z], S[z])

    new = check_closed(mixture(of), 2 * real(N, 2)).params
    assert torch.equal(new["S"], new["S"].mT)


@pytest.mark.parametrize("argument", ["scale_tril", "covariance_matrix", "precision_matrix"])
def test_diagonal_covariance_from_a_vector(argument: str) -> None:
    """The diagonal pattern of a vector is a row of Normals."""

    def of(z: Tensor) -> Any:
        diagonal = pyro.param("diagonal", tensor([[1.0, 2.0], [0.5, 1.5]]), constraint=constraints.positive)
        loc = pyro.param("loc", tensor([[-1.0, 0.0], [1.0, 0.5]]))
        return dist.MultivariateNormal(loc[z], **{argument: torch.diag_embed(diagonal)[z]})

    x = 2 * real(N, 2)
    new = check_closed(mixture(of), x).params

    def of_scales(z: Tensor) -> Any:
        power = {"scale_tril": 1, "covariance_matrix": 0.5, "precision_matrix": -0.5}[argument]
        scale = pyro.param("scale", tensor([[1.0, 2.0], [0.5, 1.5]]) ** power, constraint=constraints.positive)
        loc = pyro.param("loc", tensor([[-1.0, 0.0], [1.0, 0.5]]))
        return dist.Normal(loc[z], scale[z]).to_event(1)

    again = step(mixture(of_scales), x).params
    same(new["loc"], again["loc"])


@pytest.mark.parametrize(
    "change",
    [lambda S: S + 0.1 * torch.eye(2), lambda S: S * (1 + torch.eye(2)), lambda S: S[..., :1, :1] * torch.eye(2)],
    ids=["added", "diagonal doubled", "one entry"],
)
def test_a_matrix_that_is_not_selected_whole(change: Callable[[Tensor], Tensor]) -> None:
    """What is made of some entries of a matrix is torch."""

    def of(z: Tensor) -> Any:
        S = pyro.param("S", torch.eye(2).expand(2, 2, 2) + 0.2, constraint=constraints.positive_definite)
        return dist.MultivariateNormal(tensor([[-1.0, 0.0], [1.0, 0.0]])[z], change(S)[z])

    assert how(mixture(of), real(N, 2)) == {"S": "torch"}


# ---- how arguments are read ------------------------------------------------------------------------------------------


def test_materialised_arguments_are_compressed() -> None:
    """An argument that the program itself copied to every row is looked at once for each component."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))[z] + torch.zeros(N)
        scale = positive("scale", 0.5, 1.5)[z].expand(*z.shape[:-1], N).clone()
        return dist.Normal(loc, scale)

    here = prepare(mixture(of), (real(N),), {}, {}, check=True)
    roles = here.engine.recognition.readings["x"].roles
    assert {key: role.names for key, role in roles.items()} == {"loc": ("z",), "scale": ("z",)}
    assert all(role.index.shape == (2,) for role in roles.values())
    check_closed(mixture(of), 2 * real(N))


def test_materialised_rows_of_probabilities_are_compressed() -> None:
    """The plate expands a latent's own distribution to every row."""

    def model(x: Tensor) -> None:
        w = pyro.param("w", tensor([0.6, 0.4]), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w.expand(len(x), 2).contiguous()))
            pyro.sample("x", dist.Normal(locations(z), 1.0), obs=x)

    here = prepare(model, (real(N),), {}, {}, check=True)
    assert here.engine.recognition.readings["z"].roles["probs"].names == ()
    check_closed(model, real(N) + 1)


def test_arguments_that_vary_by_row_are_not_compressed() -> None:
    """A parameter for each row stays one."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("loc", torch.zeros(N)) + 0 * z, 1.0 + z)

    new = check_closed(mixture(of), real(N)).params
    same(new["loc"], real(N))


def test_the_plan_and_its_probes_move_nothing() -> None:
    """Planning writes nothing to the store and moves no generator."""
    generator = torch.get_rng_state()
    EM(gaussian_mixture.full).plan(real(N, 2))
    assert torch.equal(torch.get_rng_state(), generator)
    assert len(pyro.get_param_store()) == 0


def test_many_entries_in_single_precision() -> None:
    """Among a hundred probabilities some lie close in one probe; all probes together tell them apart."""
    x = (torch.rand(40, 25, generator=torch.Generator().manual_seed(0)) < 0.4).float()

    def model(x: torch.Tensor) -> None:
        weights = pyro.param("weights", torch.full((6,), 1 / 6, dtype=torch.float32), constraint=constraints.simplex)
        start = torch.linspace(0.2, 0.8, 150, dtype=torch.float32).reshape(6, 25)
        probs = pyro.param("probs", start, constraint=constraints.unit_interval)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)

    assert EM(model).plan(x)["probs"].how == "closed form"
