"""Latent class analysis: people of `K` kinds answer `J` questions, independently given the kind.

    weights (K)      item_j (K, C_j)
       |                |
    +--|----------------|---------- person: N --+
    |  v                v                       |
    | kind ---------> answer_j,   j = 1 ... J   |
    +-------------------------------------------+

The items may have different numbers of categories, and answers may be missing (at random).

Closed form: `weights` and every `item_j` (Categorical probs).

Data: carcinoma, seven pathologists' verdicts on 118 slides (Agresti, 2002, table 13.1).

References:
    Lazarsfeld, P. F. and Henry, N. W. (1968). Latent Structure Analysis. Houghton Mifflin.
    Goodman, L. A. (1974). Exploratory latent structure analysis. Biometrika 61, 215-231.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import categories_of, frequencies, some_rows, tilt, uniform


def latent_classes(
    answers: Tensor, K: int = 2, categories: Sequence[int] | None = None, answered: Tensor | None = None
) -> None:
    """Answer `J` questions by a kind of person.

    Params: `weights` `(K,)`; `item_0`, `item_1`, ..., each `(K, C_j)`. Sites: `kind` (latent), `answer_0`, ...

    Args:
        answers: categories counted from 0, shape `(N, J)`, integers.
        K: number of kinds.
        categories: number of categories of each item; one more than the largest answer if not given.
        answered: which answers are known, shape `(N, J)`, bool; all if not given. The others may hold any category.
    """
    if answered is None:
        answered = answers.new_ones((), dtype=torch.bool).expand(answers.shape)
    if categories is None:
        categories = [categories_of(column) for column in answers.unbind(-1)]
    weights = pyro.param("weights", uniform(K, answers), constraint=constraints.simplex)
    items = []
    some, known = some_rows(answers), some_rows(answered)
    for j, C in enumerate(categories):
        start = tilt(frequencies(some[known[:, j], j], C), K)
        items.append(pyro.param(f"item_{j}", start, constraint=constraints.simplex))
    with pyro.plate("person", len(answers)):
        kind = pyro.sample("kind", dist.Categorical(weights))
        for j, item in enumerate(items):
            pyro.sample(f"answer_{j}", dist.Categorical(item[kind]).mask(answered[:, j]), obs=answers[:, j])


def simulate(
    n: int = 300,
    categories: Sequence[int] = (2, 2, 3, 4),
    K: int = 2,
    missing: float = 0.0,
    seed: int | torch.Generator = 0,
) -> tuple[Tensor, int, Sequence[int], Tensor]:
    """Draw answers of `n` people of `K` equally common kinds.

    Args:
        n: number of people.
        categories: number of categories of each item.
        K: number of kinds.
        missing: probability that an answer is missing.
        seed: a seed or a generator.

    Returns:
        `answers` `(n, J)`, `K`, `categories`, `answered` `(n, J)`: the arguments of `latent_classes`.
    """
    with seeded(seed):
        kind = dist.Categorical(torch.ones(K)).sample((n,))
        columns = [dist.Categorical(dist.Dirichlet(0.5 * torch.ones(K, C)).sample()[kind]).sample() for C in categories]
        answers = torch.stack(columns, -1)
        return answers, K, categories, torch.rand(answers.shape) >= missing
