"""Which arguments are found to be closed form, which are not, and what happens when a probe was deceived."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, genetic_linkage, hidden_markov, latent_classes
from evidence import log_evidence
from m_steps import Model, check_closed, how, same, step, why
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError, PlanError
from em_pyro.prepare import prepare

N = 30


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def counts() -> Tensor:
    """Small counts."""
    return (real(N).abs() * 3).floor()


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.2).double()


def mixture(law: Callable[[Tensor], Any]) -> Model:
    """Mix two components with known weights; `law(z)` is the distribution of a row in component `z`."""

    def model(x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", law(z), obs=x)

    return model


def positive(name: str, *values: float) -> Tensor:
    """Declare a positive parameter."""
    return pyro.param(name, tensor(values), constraint=constraints.positive)


def unit(name: str, *values: float) -> Tensor:
    """Declare probabilities."""
    return pyro.param(name, tensor(values), constraint=constraints.unit_interval)


# ---- selections ------------------------------------------------------------------------------------------------------

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


# ---- affine locations ------------------------------------------------------------------------------------------------


def lines(scale: Callable[[], Tensor]) -> Model:
    """Two regression lines, `b[z, 0] + b[z, 1] t`."""

    def model(t: Tensor, y: Tensor) -> None:
        b, s = pyro.param("b", tensor([[1.0, 2.0], [-1.0, -0.5]])), scale()
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", dist.Normal(b[z, 0] + b[z, 1] * t, s[z] if s.dim() else s), obs=y)

    return model


@pytest.mark.parametrize("tied", [True, False], ids=["one scale", "two scales"])
def test_lines_are_weighted_least_squares(tied: bool) -> None:  # noqa: FBT001
    """An affine location is no selection: it is solved as a regression, and the plan says so."""
    t, y = real(N), 2 * real(N, seed=1)
    model = lines(lambda: pyro.param("s", torch.ones(() if tied else 2), constraint=constraints.positive))
    assert "least squares" in why(model, "b", t, y)
    new = check_closed(model, t, y).params
    X, b = torch.stack([torch.ones(N), t], -1), tensor([[1.0, 2.0], [-1.0, -0.5]])
    log_odds = tensor([0.6, 0.4]).log() - 0.5 * (y[:, None] - X @ b.T) ** 2
    w = torch.softmax(log_odds, -1).T
    for k in range(2):
        same(new["b"][k], torch.linalg.solve(X.T @ (w[k, :, None] * X), X.T @ (w[k] * y)))
    square = w * (y - new["b"] @ X.T) ** 2
    same(new["s"], (square.sum() / N if tied else square.sum(1) / w.sum(1)).sqrt())


def test_lines_with_a_common_slope() -> None:
    """A slope that components with different scales share is swept."""

    def model(t: Tensor, y: Tensor) -> None:
        a, slope, s = pyro.param("a", tensor([1.0, -1.0])), pyro.param("slope", tensor(0.5)), positive("s", 0.6, 1.7)
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", dist.Normal(a[z] + slope * t, s[z]), obs=y)

    check_closed(model, real(N), 2 * real(N, seed=1), swept=("a", "slope", "s"))


def test_a_known_offset_of_a_line() -> None:
    """What is added and known stays known, and a location may be an average of parameters."""

    def model(t: Tensor, y: Tensor) -> None:
        a, c = pyro.param("a", tensor([1.0, -1.0])), pyro.param("c", tensor(0.3))
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", dist.Normal((a[z] + c * t) / 2 + t**2, 1.0), obs=y)

    check_closed(model, real(N), 2 * real(N, seed=1))


def test_affine_in_a_positive_parameter_is_torch() -> None:
    """A slope that must be positive is no least squares."""

    def model(t: Tensor, y: Tensor) -> None:
        a, slope = pyro.param("a", tensor([1.0, -1.0])), positive("slope", 0.5)
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("y", dist.Normal(a[z] + slope * t, 1.0), obs=y)

    assert how(model, real(N), -real(N))["slope"] == "torch"
    fit = EM(model).fit(real(N), -real(N))
    assert float(fit.params["slope"]) >= 0


# ---- refused ---------------------------------------------------------------------------------------------------------


def smaller_first(b: Tensor) -> Tensor:
    """Branch on a parameter."""
    return b if b[0] < b[1] else b.flip(0)


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda b: b.sort()[0],
    "clamp": lambda b: b.clamp(-0.5, 0.5),
    "relu": torch.relu,
    "branch": smaller_first,
    "maximum": lambda b: torch.stack([b.max(), b.min()]),
    "product": lambda b: b * b.flip(0),
    "sine": torch.sin,
    "exponential": torch.exp,
}


@pytest.mark.parametrize("name", REFUSED)
def test_functions_that_are_no_selection(name: str) -> None:
    """What equals a selection at some values only is left to torch, and the fit is still one of the model."""

    def of(z: Tensor) -> Any:
        return dist.Normal(REFUSED[name](pyro.param("b", tensor([-0.3, 0.4])))[z], 1.0)

    x = real(N) * 2
    assert how(mixture(of), x) == {"b": "torch"}
    with pytest.raises(PlanError, match='m_step\\["b"\\]: expected a closed form, but there is none: .'):
        EM(mixture(of), m_step={"b": "closed"}).plan(x)
    fit = EM(mixture(of), max_steps=5).fit(x)
    same(tensor(fit.log_likelihood), tensor(log_evidence(mixture(of), x, params=fit.params)))


def test_a_detached_parameter() -> None:
    """Values alone would pass; the gradient does not, and torch does not move the parameter either."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("loc", tensor([-1.0, 1.0])).detach()[z], positive("scale", 1.0, 1.5)[z])

    x = real(N) * 2
    plan = EM(mixture(of)).plan(x)
    assert not plan["loc"].closed_form
    assert "gradient" in plan["loc"].why
    fit = EM(mixture(of)).fit(x)
    same(fit.params["loc"], tensor([-1.0, 1.0]))
    assert fit.params["scale"].ne(tensor([1.0, 1.5])).all()


def test_a_parameter_that_is_detached_at_one_site() -> None:
    """Selected at one site and detached at another: no closed form."""

    def model(x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
            pyro.sample("y", dist.Normal(loc.detach()[z], 1.0), obs=y)

    assert not EM(model).plan(real(N), real(N))["loc"].closed_form


def test_a_bound_far_from_active_is_found_at_the_end() -> None:
    """`scale.clamp(min=0.1)` passes every probe; the answer is measured on the user's model, and the plan withdrawn."""

    def of(z: Tensor) -> Any:
        scale = pyro.param("scale", tensor([1e4, 1e4]), constraint=constraints.positive)
        return dist.Normal(tensor([0.0, 5.0])[z], scale.clamp(min=0.1)[z])

    x = tensor([0.0, 5.0]).repeat(10) + 0.01 * real(20)
    em = EM(mixture(of))
    assert em.plan(x)["scale"].closed_form
    fit = em.fit(x)
    assert any("withdrawn" in note and "scale" in note for note in fit.notes)
    assert "withdrawn" in str(fit)
    same(tensor(fit.log_likelihood), tensor(log_evidence(mixture(of), x, params=fit.params)))
    at_the_bound = log_evidence(mixture(of), x, params={"scale": tensor([0.05, 0.05])})
    assert abs(fit.log_likelihood - at_the_bound) < 1e-3  # nats: torch may stop beside the bound


def test_the_same_model_without_the_bound_is_not_withdrawn() -> None:
    """The check at the end has nothing to say about a plain selection."""

    def of(z: Tensor) -> Any:
        return dist.Normal(tensor([0.0, 5.0])[z], positive("scale", 1e4, 1e4)[z])

    fit = EM(mixture(of)).fit(tensor([0.0, 5.0]).repeat(10) + 0.01 * real(20))
    assert fit.notes == ()
    assert fit.plan["scale"].how == "closed form"


def test_mixture_same_family() -> None:
    """There is no assignment to enumerate: the error says to write one."""

    def model(x: Tensor) -> None:
        components = dist.Normal(pyro.param("loc", tensor([-1.0, 1.0])), 1.0)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(tensor([0.5, 0.5])), components), obs=x)

    with pytest.raises(ModelError, match='Site "x": .*MixtureSameFamily.* Write the assignment as a site'):
        EM(model).plan(real(N))


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


# ---- known multiples and invertible functions ------------------------------------------------------------------------


def test_linkage_cells() -> None:
    """`[1/2, p/4, (1 - p)/4, (1 - p)/4, p/4]`: a constant, multiples of `p` and of `1 - p`."""
    observed = torch.repeat_interleave(torch.arange(4), tensor([125, 18, 20, 34]))
    for model in (genetic_linkage.five_cells, genetic_linkage.two_coins):
        assert how(model, observed) == {"p": "closed form"}
    assert "known factor" in why(genetic_linkage.five_cells, "p", observed)
    new = check_closed(genetic_linkage.five_cells, observed).params["p"]
    hidden = 125 * 0.125 / 0.625  # expected animals of the second cell at p = 1/2
    same(new, tensor((hidden + 34) / (hidden + 34 + 18 + 20)))


CELLS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "p/2, (1 - p)/2, 1/2": (lambda p: torch.stack([p / 2, (1 - p) / 2, tensor(0.5)]), True),
    "0.3 p, 0.7 p, 1 - p": (lambda p: torch.stack([0.3 * p, 0.7 * p, 1 - p]), True),
    "p^2, (1 - p^2)/2, (1 - p^2)/2": (lambda p: torch.stack([p**2, (1 - p**2) / 2, (1 - p**2) / 2]), True),
    "0.3 p, 0.5, 0.5 - 0.3 p": (lambda p: torch.stack([0.3 * p, tensor(0.5), 0.5 - 0.3 * p]), False),
    "p^2, 2 p (1 - p), (1 - p)^2": (lambda p: torch.stack([p**2, 2 * p * (1 - p), (1 - p) ** 2]), False),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    """Categorical cells that are known multiples of a probability and its complement, and cells that are not."""
    cells, closed = CELLS[name]

    def of(z: Tensor) -> Any:
        return dist.Categorical(torch.stack([cells(p) for p in unit("p", 0.3, 0.6)])[z])

    x = torch.arange(N) % 3
    if closed:
        check_closed(mixture(of), x)
    else:
        assert how(mixture(of), x) == {"p": "torch"}


def softplus(x: Tensor) -> Tensor:
    """Smooth positive part."""
    return torch.nn.functional.softplus(x)


def locations(z: Tensor) -> Tensor:
    """Known locations."""
    return tensor([-1.0, 1.0])[z]


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Tensor, Any, Callable[[], Tensor]]] = {
    "exp": (lambda a, z: dist.Poisson(a.exp()[z]), tensor([0.1, 1.0]), constraints.real, counts),
    "exp of a scale": (lambda a, z: dist.Normal(locations(z), a.exp()[z]), tensor([0.1, 1.0]), constraints.real,
                       lambda: 2 * real(N)),
    "softplus": (lambda a, z: dist.Poisson(softplus(a)[z]), tensor([0.1, 3.0]), constraints.real, counts),
    "square": (lambda a, z: dist.Exponential(a.square()[z]), tensor([0.5, 1.5]), constraints.positive,
               lambda: real(N).exp()),
    "square of a scale": (lambda a, z: dist.Normal(locations(z), (a**2)[z]), tensor([0.9, 1.5]), constraints.positive,
                          lambda: 2 * real(N)),
    "sqrt": (lambda a, z: dist.Normal(locations(z), a.sqrt()[z]), tensor([0.5, 1.5]), constraints.positive,
             lambda: 2 * real(N)),
    "rsqrt": (lambda a, z: dist.Normal(locations(z), a.rsqrt()[z]), tensor([0.5, 1.5]), constraints.positive,
              lambda: 2 * real(N)),
    "reciprocal": (lambda a, z: dist.Exponential(1 / a[z]), tensor([0.5, 1.5]), constraints.positive,
                   lambda: real(N).exp()),
    "reciprocal, with an exposure": (lambda a, z: dist.Poisson((torch.arange(N) + 1) / a[z]), tensor([5.0, 1.5]),
                                     constraints.positive, counts),
    "log": (lambda a, z: dist.Normal(a.log()[z], 1.0), tensor([0.5, 3.0]), constraints.positive, lambda: 2 * real(N)),
    "1 - x": (lambda a, z: dist.Bernoulli(1 - a[z]), tensor([0.3, 0.6]), constraints.unit_interval, bits),
    "sigmoid": (lambda a, z: dist.Bernoulli(torch.sigmoid(a)[z]), tensor([-1.0, 0.6]), constraints.real, bits),
    "logits": (lambda a, z: dist.Geometric(logits=a[z]), tensor([-1.0, 0.6]), constraints.real, counts),
    "sqrt of a probability": (lambda a, z: dist.Bernoulli(a.sqrt()[z]), tensor([0.3, 0.6]), constraints.unit_interval,
                              bits),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_invertible_functions(name: str) -> None:
    """The maximum over the argument, mapped back, is the maximum over the parameter."""
    law, start, constraint, data = FUNCTIONS[name]
    check_closed(mixture(lambda z: law(pyro.param("a", start.double(), constraint=constraint), z)), data())


ROWS = tensor([[0.5, 1.0, -0.5], [0.2, 0.1, 0.9]], dtype=torch.float64)

SIMPLEX: dict[str, tuple[Callable[[Tensor, Tensor], Any], Tensor, Any]] = {
    "probs": (lambda w, z: dist.Categorical(w[z]), ROWS.softmax(-1), constraints.simplex),
    "probs, not normalised": (lambda w, z: dist.Categorical(3 * w[z]), ROWS.softmax(-1), constraints.simplex),
    "positive": (lambda w, z: dist.Categorical(w[z]), ROWS.exp(), constraints.positive),
    "logits of probs": (lambda w, z: dist.Categorical(logits=w.log()[z]), ROWS.softmax(-1), constraints.simplex),
    "logits": (lambda w, z: dist.Categorical(logits=w[z]), ROWS, constraints.real),
    "shifted logits": (lambda w, z: dist.Categorical(logits=w[z] + 5), ROWS, constraints.real),
    "softmax": (lambda w, z: dist.Categorical(w.softmax(-1)[z]), ROWS, constraints.real),
    "log_softmax": (lambda w, z: dist.Categorical(logits=w.log_softmax(-1)[z]), ROWS, constraints.real),
    "softmax after": (lambda w, z: dist.Categorical(w[z].softmax(-1)), ROWS, constraints.real),
}


@pytest.mark.parametrize("name", SIMPLEX)
def test_rows_of_probabilities(name: str) -> None:
    """Whole rows are compared up to normalisation, as `probs` and as `logits`, and give one and the same law."""
    law, start, constraint = SIMPLEX[name]
    model = mixture(lambda z: law(pyro.param("w", start, constraint=constraint), z))
    x = torch.arange(N).sqrt().long() % 3

    def view(w: Tensor) -> Tensor:
        return w.log_softmax(-1) if constraint is constraints.real else (w / w.sum(-1, keepdim=True)).log()

    def plain(z: Tensor) -> Any:
        return dist.Categorical(pyro.param("w", ROWS.softmax(-1), constraint=constraints.simplex)[z])

    new = check_closed(model, x, views={"w": view}).params["w"]
    same(view(new), step(mixture(plain), x).params["w"].log())


@pytest.mark.parametrize("name", ["probs", "logits", "logits of probs"])
def test_a_category_that_never_occurs(name: str) -> None:
    """Its probability is exactly zero after one step, its logit minus infinity, and further steps keep it there."""
    law, start, constraint = SIMPLEX[name]
    model = mixture(lambda z: law(pyro.param("w", start, constraint=constraint), z))
    fit = EM(model).fit(torch.arange(N) % 2)
    assert fit.converged
    assert fit.params["w"][:, 2].tolist() == ([-torch.inf] * 2 if constraint is constraints.real else [0.0] * 2)
    best = torch.full((2, 3), 0.5) * tensor([1.0, 1.0, 0.0])
    want = log_evidence(mixture(lambda z: dist.Categorical(logits=best.log()[z])), torch.arange(N) % 2)
    same(tensor(fit.log_likelihood), tensor(want), 1e-6)


# ---- necessary is not sufficient -------------------------------------------------------------------------------------

NARROW: dict[str, tuple[Callable[[Tensor, Tensor], Any], Tensor, Any, Callable[[], Tensor]]] = {
    "interval of a probability": (lambda a, z: dist.Bernoulli(a[z]), tensor([0.3, 0.5]), constraints.interval(0.2, 0.9),
                                  bits),
    "ordered locations": (lambda a, z: dist.Normal(a[z], 1.0), tensor([-1.0, 1.0]), dist.constraints.ordered_vector,
                          lambda: 2 * real(N)),
    "positive locations": (lambda a, z: dist.Normal(a[z], 1.0), tensor([0.5, 1.0]), constraints.positive,
                           lambda: 2 * real(N)),
    "interval of a location": (lambda a, z: dist.Normal(a[z], 1.0), tensor([-0.5, 0.5]), constraints.interval(-1, 1),
                               lambda: 2 * real(N)),
    "bounded scale": (lambda a, z: dist.Normal(locations(z), a[z]), tensor([0.5, 1.5]), constraints.greater_than(0.1),
                      lambda: 2 * real(N)),
    "bounded rate": (lambda a, z: dist.Poisson(a[z]), tensor([0.5, 1.5]), constraints.greater_than(0.1), counts),
    "scale below one": (lambda a, z: dist.Normal(locations(z), a[z]), tensor([0.3, 0.5]), constraints.unit_interval,
                        lambda: 0.3 * real(N)),
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
def test_narrower_constraints(name: str) -> None:
    """A constraint narrower than the domain goes to torch, whose transform enforces it."""
    law, start, constraint, data = NARROW[name]
    model = mixture(lambda z: law(pyro.param("a", start.double(), constraint=constraint), z))
    assert how(model, data()) == {"a": "torch"}
    assert "constraint" in why(model, "a", data())
    fit = EM(model, max_steps=10).fit(data())
    assert bool(constraint.check(fit.params["a"]).all())
    assert list(fit.path) == sorted(fit.path)
    assert fit.path[-1] > fit.path[0]


PARTLY: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "one entry": lambda w, z: dist.Bernoulli(w[z, 0]),
    "an entry and its complement": lambda w, z: dist.Categorical(torch.stack([w[..., 0], 1 - w[..., 0]], -1)[z]),
    "two of three entries": lambda w, z: dist.Categorical(w[z, :2]),
    "a sum of entries": lambda w, z: dist.Categorical(torch.stack([w[..., 0], w[..., 1] + w[..., 2]], -1)[z]),
}


@pytest.mark.parametrize("name", PARTLY)
def test_a_simplex_row_used_partly(name: str) -> None:
    """The rest of the row would pay for what is used: torch."""

    def of(z: Tensor) -> Any:
        return PARTLY[name](pyro.param("w", ROWS.softmax(-1), constraint=constraints.simplex), z)

    x = bits() if name == "one entry" else bits().long()
    assert how(mixture(of), x) == {"w": "torch"}


def test_a_simplex_row_permuted_is_used_whole() -> None:
    """Two sites may read one row in two orders, and as multiples beside a constant."""

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.param("w", ROWS.softmax(-1), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Categorical(w[z]), obs=x)
            pyro.sample("y", dist.Categorical(torch.cat([w.flip(-1) / 2, torch.full((2, 1), 0.5)], -1)[z]), obs=y)

    check_closed(model, torch.arange(N) % 3, torch.arange(N) % 4)


def test_one_parameter_in_two_families() -> None:
    """A rate that is also a scale has no joint closed form, and the plan names both."""

    def model(x: Tensor, y: Tensor) -> None:
        a = positive("a", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(0.0, a[z]), obs=x)
            pyro.sample("y", dist.Poisson(a[z]), obs=y)

    assert how(model, real(N), counts()) == {"a": "torch"}
    assert "Normal" in why(model, "a", real(N), counts())
    assert "Poisson" in why(model, "a", real(N), counts())


def test_one_parameter_in_two_families_of_one_kind() -> None:
    """A probability of heads and of the first success is pooled over both; so is a rate of counts and of waiting."""

    def model(x: Tensor, y: Tensor, c: Tensor, t: Tensor) -> None:
        p, r = unit("p", 0.3, 0.6), positive("r", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Bernoulli(p[z]), obs=x)
            pyro.sample("y", dist.Geometric(1 - p[z]), obs=y)
            pyro.sample("c", dist.Poisson(r[z]), obs=c)
            pyro.sample("t", dist.Exponential(r[1 - z]), obs=t)

    check_closed(model, bits(), counts(), counts().flip(0), real(N).exp())


def test_one_parameter_through_two_functions() -> None:
    """`a` and `a^2` at two sites: torch."""

    def model(x: Tensor, y: Tensor) -> None:
        a = positive("a", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Poisson(a[z]), obs=x)
            pyro.sample("y", dist.Poisson(a[z] ** 2), obs=y)

    assert how(model, counts(), counts()) == {"a": "torch"}


def test_one_parameter_as_location_and_scale() -> None:
    """A standard deviation proportional to the mean: torch."""

    def of(z: Tensor) -> Any:
        a = positive("a", 0.5, 1.5)
        return dist.Normal(a[z], a[z])

    assert how(mixture(of), 1 + real(N)) == {"a": "torch"}


def test_a_location_times_a_parameter() -> None:
    """A product of two parameters is neither."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("a", tensor([-1.0, 1.0]))[z] * pyro.param("b", tensor(0.7)), 1.0)

    assert how(mixture(of), real(N)) == {"a": "torch", "b": "torch"}


# ---- blocks that are swept -------------------------------------------------------------------------------------------


def test_a_mean_shared_by_components_whose_scales_differ() -> None:
    """The classic outlier model: swept until the gradient of `Q` is zero, and the plan says why."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("loc", tensor(0.3)), positive("scale", 0.5, 3.0)[z])

    x = torch.cat([0.5 * real(20), 4 * real(10, seed=1)])
    assert "shared" in why(mixture(of), "loc", x)
    check_closed(mixture(of), x, swept=("loc", "scale"))


def test_a_mean_with_a_prior_and_a_free_scale() -> None:
    """A Normal prior weighs against the scale: swept."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(tensor([-2.0, 2.0]), 0.5).to_event(1))
        scale = positive("scale", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    assert "prior" in why(model, "loc", 2 * real(N))
    check_closed(model, 2 * real(N), swept=("loc", "scale"))


def test_a_mean_with_a_prior_and_a_known_scale() -> None:
    """Nothing to sweep when the scale is known."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(tensor([-2.0, 2.0]), 0.5).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], tensor([0.5, 1.5])[z]), obs=x)

    check_closed(model, 2 * real(N))


def test_a_location_that_torch_maximises() -> None:
    """Closed and torch in one block: alternated until `Q` is stationary."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", tensor([-1.0, 1.0]), constraint=dist.constraints.ordered_vector)
        return dist.Normal(loc[z], positive("scale", 0.5, 1.5)[z])

    x = 2 * real(N)
    assert how(mixture(of), x) == {"loc": "torch", "scale": "swept"}
    assert step(mixture(of), x).slope <= 1e-10


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
