"""Write `models/README.md`: a table of the zoo, and what `em.plan` prints on each of its models.

`python docs/make_models_readme.py` writes it anew; a test holds that it is up to date. Every model is planned on data
that it simulated itself (`tests/programs/zoo.py`). Nothing on the page is written by hand but `HEAD` below: latents and
closed forms come from the plans, data and references from the docstring of each file.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyro
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "models" / "README.md"
sys.path.insert(0, str(ROOT / "tests"))

from programs.zoo import GAUSSIAN, ZOO  # noqa: E402 - found beside the tests

from em_pyro import EM  # noqa: E402

MODELS = ZOO | GAUSSIAN

HEAD = """\
# The zoo

Models that people use EM for, one file each: plain Pyro, a plate diagram, `simulate()`, and the paper. They are
installed as `em_pyro.models`. A reader learns the model there without opening the library; none of them imports the
engine.

```python
from em_pyro import EM
from em_pyro.models import gaussian_mixture

x = gaussian_mixture.simulate()
fit = EM(gaussian_mixture.full).fit(x)
```

Small public data sets are in [`data/`](data/README.md), each with its provenance.

This page is written by `docs/make_models_readme.py`: the plans below are what `em.plan` prints on data that each model
simulated, times left out.

"""


@dataclass(frozen=True)
class Entry:
    """One model of the zoo, planned.

    Attributes:
        name: its name in `ZOO` or `GAUSSIAN`.
        file: where it is written.
        function: the Pyro function.
        latents: what is summed out, with the number of states, or as Gaussian.
        solved: how each parameter is maximised.
        plan: as printed, seconds left out.
    """

    name: str
    file: str
    function: str
    latents: tuple[str, ...]
    solved: Mapping[str, str]
    plan: str


def entry(name: str) -> Entry:
    """Plan one model on what it simulates, in float64, from an empty store that is left empty."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope():
            pyro.set_rng_seed(0)
            model, simulate = MODELS[name]
            data = simulate()  # as long as the model makes it, loops too
            args = data if isinstance(data, tuple) else (data,)
            em = EM(model, check=False)  # which is no part of a plan
            plan = em.plan(*args)
            program = em.posterior(*args).engine.program
            sizes = {n: str(latent.size) for n, latent in program.latents.items()}
            latents = _together(sizes | dict.fromkeys(sorted(program.integrated, key=_by_step), "Gaussian"))
    finally:
        torch.set_default_dtype(before)
    function = inspect.unwrap(MODELS[name][0])
    while isinstance(function, partial):
        function = inspect.unwrap(function.func)
    printed = re.sub(r"\nplanned in .*", "", str(plan))
    return Entry(
        name,
        f"{function.__module__.rpartition('.')[2]}.py",
        function.__name__,
        latents,
        {n: line.how for n, line in plan.lines.items()},
        printed,
    )


def _by_step(name: str) -> tuple[int, str]:
    """Sort steps of loops by their number."""
    step = re.search(r"_(\d+)$", name)
    return int(step[1]) if step else -1, name


def _together(sizes: Mapping[str, str]) -> tuple[str, ...]:
    """Name each latent with its number of states, the steps of a chain once: `state_t (2)`."""
    names = [re.sub(r"_\d+$", "_t", name) if f"{name[: name.rfind('_')]}_1" in sizes else name for name in sizes]
    return tuple(dict.fromkeys(f"`{name}` ({size})" for name, size in zip(names, sizes.values(), strict=True)))


def section(docstring: str, title: str) -> str:
    """Return what stands behind `title:` in a docstring, up to the next blank line, as one line."""
    found = re.search(rf"^{title}:(.*?)(?:\n\s*\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def references(docstring: str) -> list[str]:
    """Return the references of a docstring, one a work: a line that begins with a surname and an initial begins one."""
    found = re.search(r"^References:\n(.*)\Z", docstring, re.DOTALL | re.MULTILINE)
    works = re.split(r"\n\s*(?=[A-Z][\w'-]+, [A-Z]\.)", f"\n{found[1]}") if found else []
    return [" ".join(work.split()) for work in works if work.strip()]


def short(work: str) -> str:
    """Cite a work in the running text: `Do & Batzoglou (2008)`."""
    authors, year = re.match(r"(.*?) \((\d{4})\)", work).groups()  # type: ignore[union-attr]
    names = re.findall(r"([A-Z][\w'-]+), [A-Z]\.", authors)
    few = len(names) < 3 and "et al." not in authors
    return f"{' & '.join(names) if few else names[0] + ' et al.'} ({year})"


def data_sets(text: str) -> str:
    """Name the data sets that a line about data names, or say that the data are simulated."""
    named = re.findall(r'load\("(\w+)"\)', text)
    return ", ".join(f"`{name}`" for name in named) or re.split(r",| \(|\.", text)[0]


def page(entries: list[Entry]) -> str:
    """Return the whole page."""
    files: dict[str, list[Entry]] = {}
    for one in entries:
        files.setdefault(one.file, []).append(one)
    docs = {file: ast.get_docstring(ast.parse((ROOT / "models" / file).read_text(encoding="utf-8"))) for file in files}
    rows = ["| model | latents (states) | closed form | torch | data | reference |", "|---|---|---|---|---|---|"]
    parts = []
    for file, members in files.items():
        text = docs[file] or ""
        for one in members:
            closed = ", ".join(
                f"`{n}`" + (f" ({how})" if how != "closed form" else "")
                for n, how in one.solved.items()
                if how != "torch"
            )
            rest = ", ".join(f"`{n}`" for n, how in one.solved.items() if how == "torch")
            latents = ", ".join(one.latents) or "none"
            where = f"[{one.name}](#{one.name}): `{file[:-3]}.{one.function}`"
            source = f"{data_sets(section(text, 'Data'))} | {short(references(text)[0])}"
            rows.append(f"| {where} | {latents} | {closed or '-'} | {rest or '-'} | {source} |")
        works = "\n".join(f"- {work}" for work in references(text))
        summary = text.split("\n")[0]
        plans = "\n\n".join(f"#### {one.name}\n\n```text\n{one.plan}\n```" for one in members)
        parts.append(
            f"### [{file}]({file})\n\n{summary}\n\nData: {section(text, 'Data')}\n\nReferences:\n\n{works}\n\n{plans}\n"
        )
    return HEAD + "\n".join(rows) + "\n\n## Plans\n\n" + "\n".join(parts)


def said(name: str) -> str:
    """Return the plan of one model as the page has it now, or nothing."""
    found = re.search(rf"^#### {re.escape(name)}\n\n```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    return found[1] if found else ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page([entry(name) for name in MODELS]), encoding="utf-8")
