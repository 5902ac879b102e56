# %% [markdown]
"""# What do the standard library's docstrings talk about?

Every machine with Python has a corpus: the docstrings of its modules. Take the words of each module, forget their
order, and give every word of every document a hidden topic (pLSA; Hofmann, 1999). **Do modules that do similar things
come to share a topic, although nobody said which they are?**
"""

# %%
import importlib
import inspect
import re
from collections import Counter

import matplotlib.pyplot as plt
import torch
from em_pyro.models.topics import plsa

from em_pyro import EM
from em_pyro.plotting import COLOURS

FAMILIES = {
    "numbers": ("statistics", "fractions", "decimal", "random", "math", "cmath", "numbers"),
    "files": ("os", "shutil", "pathlib", "tempfile", "zipfile", "tarfile", "gzip", "glob", "io"),
    "internet": ("smtplib", "ftplib", "poplib", "imaplib", "urllib.request", "http.client", "socket", "ssl"),
    "tests": ("unittest.case", "unittest.mock", "doctest", "unittest.loader", "unittest.suite", "unittest.runner"),
}
STOP = set(
    "the a an and or of to in is it if be as for with that this by on are not from at can will when which has have may "
    "but all any one two other than then into its also only same such no none true false return returns returned "
    "raise raised raises given use used using default optional value values self object objects method methods class "
    "function functions call called name names type instance argument arguments should must see new each set get "
    "first second example there was were does been more whether where otherwise you your end none".split()
)


def words(module: str) -> Counter[str]:
    """Count the words of all docstrings that were written in a module."""
    found = importlib.import_module(module)
    texts = [inspect.getdoc(found) or ""]
    for _, thing in inspect.getmembers(found, lambda x: inspect.isroutine(x) or inspect.isclass(x)):
        if str(getattr(thing, "__module__", "")).split(".")[0].lstrip("_") == module.split(".")[0]:
            texts.append(inspect.getdoc(thing) or "")
            members = vars(thing).values() if inspect.isclass(thing) else ()
            texts.extend(inspect.getdoc(member) or "" for member in members if inspect.isroutine(member))
    return Counter(w for w in re.findall(r"[a-z]{3,}", " ".join(texts).lower()) if w not in STOP)


family = {module: name for name, members in FAMILIES.items() for module in members}
documents = {module: words(module) for module in family}
spread = Counter(word for counts in documents.values() for word in counts)
vocabulary = sorted(word for word, modules in spread.items() if modules >= 3)
counts = torch.tensor([[documents[m][word] for word in vocabulary] for m in family], dtype=torch.float64)
print(f"{len(family)} modules, {len(vocabulary)} words, {int(counts.sum())} tokens")

# %%
K = 4
fit = EM(plsa, starts=3, max_steps=100, tol=1e-5).fit(counts, K)
print(fit)
share, topics = fit.params["share"], fit.params["topics"]

# %% [markdown]
# A topic is known by the words that it makes much more frequent than they are elsewhere.

# %%
common = counts.sum(0) / counts.sum()
lift = topics * (topics / common).clamp(min=1e-12).log()
best = [[vocabulary[int(i)] for i in row.topk(6).indices] for row in lift]
for k in range(K):
    print(f"topic {k}: {', '.join(best[k])}")

figure, ax = plt.subplots(figsize=(8, 7), layout="constrained")
left = torch.zeros(len(family), dtype=torch.float64)
for k in range(K):
    ax.barh(range(len(family)), share[:, k], left=left, color=COLOURS[k], label=", ".join(best[k]), edgecolor="white")
    left = left + share[:, k]
ax.set_yticks(range(len(family)), list(family), fontsize=9)
ax.set(xlabel="share of each topic in the module's docstrings", xlim=(0, 1))
ax.margins(y=0.01)
ax.invert_yaxis()
figure.legend(loc="outside upper center", frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# Two modules of one family are more alike in their topics than two of different families, on average by far. (The
# docstrings are your Python's, so that the numbers differ a little between versions.)

# %%
affinity = share.sqrt() @ share.sqrt().T  # of Bhattacharyya: 1 for equal shares, 0 for disjoint ones
labels = list(family.values())
same = torch.tensor([[a == b for a in labels] for b in labels])
apart = ~torch.eye(len(labels), dtype=torch.bool)
within, between = affinity[same & apart].mean(), affinity[~same].mean()
print(f"\naffinity within a family {within:.2f}, between families {between:.2f}")
assert within > between + 0.2
assert all(after >= before - 1e-6 for before, after in zip(fit.path, fit.path[1:], strict=False))
