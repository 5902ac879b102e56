"""Laws of what belongs to other rows alone: topics of documents that were not seen, against the same by hand."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, topics
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from oracles.variational import dirichlet_divergence, expected_logs

from em_pyro import NormalWishart, ParameterError, VariationalEM, VariationalFit

ALPHA, BETA, SEEN = 0.4, 0.3, 20


def fitted(counts: torch.Tensor, K: int) -> VariationalFit:
    """Latent Dirichlet allocation of the first documents."""
    priors = {
        "share": dist.Dirichlet(torch.full((K,), ALPHA)),
        "topics": dist.Dirichlet(torch.full((counts.shape[1],), BETA)),
    }
    return VariationalEM(topics.plsa, priors, tol=1e-12, max_steps=3000).fit(counts[:SEEN], K)


def by_hand(counts: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, float]:
    """Shapes of the shares of every document, given those of the topics, and the bound (Blei, Ng & Jordan 2003)."""
    shapes = np.full((len(counts), len(words)), ALPHA) + counts.sum(1, keepdims=True) / len(words)
    logs = expected_logs(words)
    for _ in range(5000):
        joint = expected_logs(shapes)[:, :, None] + logs[None]
        top = joint.max(1, keepdims=True)
        evidence = (top + np.log(np.exp(joint - top).sum(1, keepdims=True)))[:, 0]
        bound = float((counts * evidence).sum()) - dirichlet_divergence(shapes, np.full_like(shapes, ALPHA))
        shapes = ALPHA + (counts[:, None] * np.exp(joint - evidence[:, None])).sum(2)
    return shapes, bound


def test_topics_of_other_documents_are_those_by_hand() -> None:
    """Shapes and bound of as many documents as were fitted, which are others, and of fewer."""
    counts, K = topics.simulate(2 * SEEN, 12, 2)
    fit = fitted(counts, K)
    words = fit.laws["topics"].concentration
    for other in (counts[SEEN:], counts[SEEN : SEEN + 3]):
        found = fit.laws_on(other, K)
        shapes, bound = by_hand(other.double().numpy(), words.numpy())
        assert distance(found.laws["share"].concentration, torch.as_tensor(shapes)) < 1e-4
        assert distance(found.elbo, bound) < SOLVERS
        assert torch.equal(found.laws["topics"].concentration, words)
    posterior = fit.posterior_on(other, K)
    assert distance(posterior.log_evidence, found.posterior.log_evidence) < IDENTITY
    assert posterior.marginal("topic").shape == (int((other > 0).sum()), K)


def test_rows_seen_again_have_the_laws_of_the_fit() -> None:
    """The same documents once more: the bound is that of the fit without what the topics have paid."""
    counts, K = topics.simulate(2 * SEEN, 12, 2)
    fit = fitted(counts, K)
    again = fit.laws_on(counts[:SEEN], K)
    paid = float(next(each.divergence(law) for each, law in fit.held if each.names == ("topics",)))
    assert distance(again.elbo - paid, fit.elbo) < SOLVERS


def test_refused() -> None:
    """Rows without parameters of their own; other words."""
    counts, K = topics.simulate(2 * SEEN, 12, 2)
    with pytest.raises(ParameterError, match='"topics"'):
        fitted(counts, K).laws_on(counts[SEEN:, :9], K)
    x = gaussian_mixture.simulate(30)
    pair = NormalWishart(torch.zeros(2), 0.1, torch.eye(2), 3.0)
    mixture = VariationalEM(
        gaussian_mixture.full, {"weights": dist.Dirichlet(torch.ones(2)), ("loc", "scale_tril"): pair}
    ).fit(x)
    with pytest.raises(ParameterError, match="every row selects"):
        mixture.laws_on(x)
