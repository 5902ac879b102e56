"""A program laid out at fixed values has the posterior of one that is laid out for all values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from oracles.agreement import close
from oracles.engines import laid_out
from oracles.varied import PROGRAMS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.posterior import fixed
from em_pyro.posterior.fixed import fixed_engine
from em_pyro.posterior.posterior import posterior

TOLERANCE = {"mixed_precision": 1e-6}
"""Where the program itself rounds to float32."""


@pytest.mark.parametrize("rows", [0, 4096], ids=["compiled", "replayed"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_any_program(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence, marginals, mode and entropy, whether sites are matrix products or the model's own densities."""
    monkeypatch.setattr(fixed, "ROWS", rows)
    problem = laid_out(name).problem
    values = {n: parameter.initial for n, parameter in problem.program.parameters.items()}
    with torch.no_grad():
        sites = problem.program.run(values)
    engine = fixed_engine(problem.program, sites, values)
    assert not engine.open
    got, want = posterior(engine, values), posterior(problem.engine, values)
    tolerance = TOLERANCE.get(name, 1e-10)
    close(got.log_evidence, want.log_evidence, tolerance)
    close(got.entropy, want.entropy, tolerance)
    for latent in (*engine.program.latents, *engine.inner):
        close(got.marginal(latent), want.marginal(latent), tolerance)
    mode = want.mode()
    for latent, value in got.mode().items():
        assert torch.equal(value, mode[latent])


@pytest.mark.parametrize("rows", [0, 4096], ids=["many", "few"])
@pytest.mark.parametrize("logit", [30.0, -30.0])
def test_far_logits(logit: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nearly every row would contradict is very unlikely, and not impossible."""
    monkeypatch.setattr(fixed, "ROWS", rows)

    def model(x: Tensor) -> None:
        level = pyro.param("level", tensor([logit, logit + 1]))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=tensor([0.0, 1.0])))
            pyro.sample("x", dist.Bernoulli(logits=level[z]), obs=x)

    x = tensor([0.0, 1.0])
    law = EM(model, max_steps=0).fit(x).posterior_on(x)
    logs = -F.softplus((1 - 2 * x)[:, None] * tensor([logit, logit + 1])) + tensor([0.0, 1.0]).log_softmax(0)
    close(law.log_evidence_by("rows"), logs.logsumexp(1))


@pytest.mark.parametrize("rows", [0, 4096], ids=["many", "few"])
def test_zeros_are_zeros(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state in which a value cannot be has no share of it, whatever torch makes of a probability of zero."""
    monkeypatch.setattr(fixed, "ROWS", rows)

    def model(x: Tensor) -> None:
        chances = pyro.param("chances", tensor([[0.5, 0.5, 0.0], [0.3, 0.4, 0.3]]), constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Categorical(chances[z]), obs=x)

    x = torch.tensor([0, 2, 2])
    assert EM(model, max_steps=0).fit(x).posterior_on(x).marginal("z")[1:].tolist() == [[0.0, 1.0]] * 2
