"""Item response theory by marginal maximum likelihood: people of unknown ability answer items of unknown difficulty.

                 intercept (J), slope (J), guess (J)
                            |
    +-----------------------|---- person: N --+
    |                       v                 |
    |  ability ---------> answers             |
    +-----------------------------------------+

    P(answer j is right | ability) = guess_j + (1 - guess_j) * sigmoid(intercept_j + slope_j * ability)

The ability is standard normal; a Gauss rule makes it a discrete latent with 41 values. Rasch: one slope for all items,
no guessing; 2PL: a slope each; 3PL: guessing too, with a prior, since some hundreds of people say little about it.

Newton: `intercept` and `slope` of the Rasch model and of 2PL, a Bernoulli's affine logits; the others are for torch.

Data: LSAT section 6 (Bock & Lieberman, 1970).

References:
    Bock, R. D. and Aitkin, M. (1981). Marginal maximum likelihood estimation of item parameters: application of an EM
    algorithm. Psychometrika 46, 443-459.
    Birnbaum, A. (1968). In Lord, F. M. and Novick, M. R., Statistical Theories of Mental Test Scores, part 5.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from em_pyro.quadrature import quadrature

from .seeded import seeded
from .start import real


def rasch(answers: Tensor, nodes: int = 41) -> None:
    """Answer by ability and easiness: one slope for all items.

    Params: `intercept` `(J,)`, `slope` `()`. Sites: `ability` (latent), `answers`.

    Args:
        answers: one where the answer is right, zero where it is wrong, shape `(N, J)`.
        nodes: number of nodes of the rule for the ability.
    """
    answers = real(answers)
    intercept = _intercept(answers)
    slope = pyro.param("slope", answers.new_ones(()))
    with pyro.plate("person", len(answers)):
        ability = pyro.sample("ability", _standard_normal(answers, nodes))
        logits = intercept + slope * ability[..., None]
        pyro.sample("answers", dist.Bernoulli(logits=logits).to_event(1), obs=answers)


def two_parameters(answers: Tensor, nodes: int = 41) -> None:
    """Answer by a slope for each item (2PL): params `intercept` `(J,)`, `slope` `(J,)`; else as in `rasch`."""
    answers = real(answers)
    intercept, slope = _intercept(answers), _slope(answers)
    with pyro.plate("person", len(answers)):
        ability = pyro.sample("ability", _standard_normal(answers, nodes))
        logits = intercept + slope * ability[..., None]
        pyro.sample("answers", dist.Bernoulli(logits=logits).to_event(1), obs=answers)


def normal_ogive(answers: Tensor, nodes: int = 41) -> None:
    """Answer as in `two_parameters`, with the normal distribution function in place of the logistic."""
    answers = real(answers)
    intercept, slope = _intercept(answers), _slope(answers)
    with pyro.plate("person", len(answers)):
        ability = pyro.sample("ability", _standard_normal(answers, nodes))
        probs = torch.special.ndtr(intercept + slope * ability[..., None])
        pyro.sample("answers", dist.Bernoulli(probs).to_event(1), obs=answers)


def three_parameters(answers: Tensor, nodes: int = 41) -> None:
    """Answer with guessing (3PL): `guess` `(J,)` has a Beta(5, 17) prior, with its mode at 0.2.

    Params: `intercept` `(J,)`, `slope` `(J,)`; `guess` is a latent site outside the plate, a parameter with a prior.
    Else as in `rasch`.
    """
    answers = real(answers)
    intercept, slope = _intercept(answers), _slope(answers)
    prior = dist.Beta(answers.new_tensor(5.0), answers.new_tensor(17.0))
    guess = pyro.sample("guess", prior.expand([answers.shape[1]]).to_event(1))
    with pyro.plate("person", len(answers)):
        ability = pyro.sample("ability", _standard_normal(answers, nodes))
        probs = guess + (1 - guess) * torch.sigmoid(intercept + slope * ability[..., None])
        pyro.sample("answers", dist.Bernoulli(probs).to_event(1), obs=answers)


def simulate(n: int = 500, J: int = 5, guess: float = 0.0, seed: int | torch.Generator = 0) -> Tensor:
    """Draw the answers of `n` people to `J` items, shape `(n, J)`; intercepts from -1 to 2, slopes from 0.8 to 1.6."""
    with seeded(seed):
        logits = torch.linspace(-1, 2, J) + torch.linspace(0.8, 1.6, J) * torch.randn(n, 1)
        return dist.Bernoulli(guess + (1 - guess) * torch.sigmoid(logits)).sample()


def _standard_normal(answers: Tensor, nodes: int) -> dist.TorchDistribution:
    return quadrature(dist.Normal(answers.new_zeros(()), answers.new_ones(())), nodes)


def _intercept(answers: Tensor) -> Tensor:
    return pyro.param("intercept", ((answers.sum(0) + 1) / (len(answers) + 2)).logit())


def _slope(answers: Tensor) -> Tensor:
    return pyro.param("slope", torch.ones_like(answers[0]))
