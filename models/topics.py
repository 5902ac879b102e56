"""Topics of documents: one topic a word (pLSA), or one a document (mixture of unigrams).

    pLSA: share (D, K)   topics (K, V)           unigrams: weights (K)   topics (K, V)
             |              |                                |              |
    +--------|--------------|- cell: M -+        +-----------|--------------|- document: D -+
    |        v              v           |        |           v      +-------|- word: L -+   |
    |      topic -------> word          |        |         topic -- |--> word_in_topic  |   |
    +-----------------------------------+        |                  +-------------------+   |
                                                 +------------------------------------------+

pLSA takes the document-term matrix by its non-zero cells; the `n` tokens of a cell have one posterior, so the cell is a
row of weight `n`. A mixture of unigrams takes the words in order, padded.

Closed form: everything (Categorical probs).

Data: simulated.

References:
    Hofmann, T. (1999). Probabilistic latent semantic indexing. SIGIR 22, 50-57.
    Nigam, K., McCallum, A., Thrun, S. and Mitchell, T. (2000). Text classification from labeled and unlabeled documents
    using EM. Machine Learning 39, 103-134.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import categories_of, frequencies, real, tilt, uniform


def plsa(counts: Tensor, K: int = 2) -> None:
    """Give every word of every document a topic.

    Params: `share` of the topics in a document `(D, K)`, `topics` `(K, V)`. Sites: `topic` (latent), `word`.

    Args:
        counts: how often word `v` is in document `d`, shape `(D, V)`.
        K: number of topics.
    """
    counts = real(counts)
    smooth = counts.sum(0) + 0.5
    share = pyro.param("share", uniform(K, counts).repeat(len(counts), 1), constraint=constraints.simplex)
    topics = pyro.param("topics", tilt(smooth / smooth.sum(), K), constraint=constraints.simplex)
    document, word = counts.nonzero(as_tuple=True)
    with pyro.plate("cell", len(word)), poutine.scale(scale=counts[document, word]):
        topic = pyro.sample("topic", dist.Categorical(share[document]))
        pyro.sample("word", dist.Categorical(topics[topic]), obs=word)


def unigrams(words: Tensor, lengths: Tensor, K: int = 2, V: int | None = None) -> None:
    """Give every document one topic.

    Params: `weights` `(K,)`, `topics` `(K, V)`. Sites: `topic` (latent), `word_in_topic`.

    Args:
        words: the words of each document, shape `(D, L)`, integers; anything from 0 to `V - 1` after its end.
        lengths: number of words of each document, shape `(D,)`.
        K: number of topics.
        V: size of the vocabulary; one more than the largest word if not given.
    """
    V = categories_of(words) if V is None else V
    inside = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
    weights = pyro.param("weights", uniform(K, words), constraint=constraints.simplex)
    topics = pyro.param("topics", tilt(frequencies(words[inside], V), K), constraint=constraints.simplex)
    with pyro.plate("document", words.shape[0], dim=-2):
        topic = pyro.sample("topic", dist.Categorical(weights))
        with pyro.plate("word", words.shape[1], dim=-1):
            pyro.sample("word_in_topic", dist.Categorical(topics[topic]).mask(inside), obs=words)


def simulate(D: int = 40, V: int = 12, K: int = 2, seed: int | torch.Generator = 0) -> tuple[Tensor, int]:
    """Draw a document-term matrix of `D` documents of 20 to 40 words.

    Returns:
        `counts`, shape `(D, V)`, and `K`: the arguments of `plsa`.
    """
    words, lengths, _, _ = simulate_unigrams(D, V, K, mixed=True, seed=seed)
    inside = torch.arange(words.shape[1]) < lengths[:, None]
    rows = torch.arange(D)[:, None].expand_as(words)[inside]
    return torch.bincount(rows * V + words[inside], minlength=D * V).reshape(D, V), K


def simulate_unigrams(
    D: int = 40, V: int = 12, K: int = 2, *, mixed: bool = False, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor, int, int]:
    """Draw documents of 20 to 40 words, of one topic each or, mixed, of several.

    Returns:
        `words` `(D, 40)`, `lengths` `(D,)`, `K`, `V`: the arguments of `unigrams`.
    """
    with seeded(seed):
        lengths = torch.randint(20, 41, (D,))
        topics = dist.Dirichlet(torch.full((V,), 0.2)).sample((K,))
        share = dist.Dirichlet(torch.full((K,), 0.5)).sample((D,)) if mixed else torch.eye(K)[torch.randint(K, (D,))]
        topic = dist.Categorical(share[:, None].expand(D, 40, K)).sample()
        return dist.Categorical(topics[topic]).sample(), lengths, K, V
