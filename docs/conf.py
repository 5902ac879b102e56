"""How the site is built: `make docs`.

Sphinx reads the repository as it lies, so that a link which works there works on the site: the source folder is the
root, and this folder only holds the configuration. What executes what is in house.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import imagesize
import jupytext
import nbformat
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

import em_pyro

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))

from gallery import EXAMPLES as NAMES  # noqa: E402 - found beside the examples

project, author, copyright = "em_pyro", "The em_pyro developers", "The em_pyro developers"  # noqa: A001 - Sphinx's name
version = release = em_pyro.__version__
extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton", "sphinx_design",
]  # fmt: skip

root_doc = "docs/index"
include_patterns = [
    "*.md", "docs/**.md", "models/README.md", "models/data/README.md", "benchmarks/RESULTS.md", "tests/README.md",
    "examples/README.md", *(f"examples/{name}.py" for name in NAMES),
]  # fmt: skip
exclude_patterns = [".*", "build", "dist", "out", "notebooks", "em_pyro"]

# ---- pages: Markdown, and examples as jupytext's percent scripts ----

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_merge_streams = True
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
# Kernels show all warnings, those that Python hides outside of a script too: docs/test_site.py wants none. ArviZ's own
# comes with its import, once a day.
os.environ["PYTHONWARNINGS"] = "default,ignore::FutureWarning:arviz"
_code = hashlib.sha256(
    b"".join(file.read_bytes() for folder in ("em_pyro", "models") for file in sorted((ROOT / folder).rglob("*.py")))
)
# Outputs are those of this very code: another package is another cache.
nb_execution_cache_path = str(ROOT / "build" / "executed" / _code.hexdigest()[:16])

# ---- reference ----

default_role, highlight_language = "literal", "text"
napoleon_use_ivar, napoleon_use_rtype = True, False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpicky = True
# Types of other libraries, of which nothing is fetched; and those of ours that no user enters: what has no public name.
nitpick_ignore_regex = [
    ("py:.*", r"(?!em_pyro\.).*"),
    ("py:class", rf"em_pyro\.(?:\w+\.)+(?!(?:{'|'.join(em_pyro.__all__)})$)\w+"),
]

next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Attributes"

# ---- appearance ----

html_theme = "furo"
html_title = f"em_pyro {version}"
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_domain_indices = False
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "friendly", "monokai"
copybutton_exclude = ".linenos, .gp, .go"


def mathml(latex: str, **how: bool) -> str:
    """Translate a formula; the name of a function stands apart from a letter after it, as LaTeX sets it."""
    return tex2mathml(re.sub(r"(\\(?:log|exp|det|max)) +(?=[A-Za-z])", r"\1\\,", latex), **how)


def inline_math(writer: Any, node: nodes.math) -> None:
    """Write MathML, which browsers set without a script from elsewhere."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def display_math(writer: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own, which scrolls where it is wider than the page."""
    writer.body.append(f'<div class="formula">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def drawn(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep what is indented in a docstring as it is typed: plate diagrams, formulas, tables."""
    for at in range(len(lines) - 1, 1, -1):
        before = next((line for line in reversed(lines[:at]) if line.strip()), "")
        if lines[at].startswith("    ") and not lines[at - 1].strip() and before and not before.startswith(" "):
            lines[at:at] = ["::", ""]


def handed_out(app: Sphinx, what: str, name: str, obj: object, options: object, *text: str) -> tuple[str, str] | None:
    """Leave out how records are made: the library makes them."""
    made = what == "class" and (dataclasses.is_dataclass(obj) or obj is em_pyro.Posterior) and obj is not em_pyro.Role
    return ("", "") if made else None


def in_reading_order(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the examples under the page that lists them; lead from the zoo to the reference, which has the source.

    Both pages are read in the repository too, where there is neither a table of contents nor a reference.
    """
    if docname == "models/README":
        source[0] = re.sub(r"\]\((\w+)\.py\)", r"](../docs/reference/models.md#\1)", source[0])
    if docname == "examples/README":
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *NAMES, "```", ""])


def described(app: Sphinx, doctree: nodes.document) -> None:
    """Give every picture its size, and the one that an example drew the words that its list has for it."""
    name = app.env.current_document.docname.removeprefix("examples/")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    words = re.findall(rf"!\[(.+)\]\(\.\./docs/pictures/{name}\.png\)", listed) if name in NAMES else []
    for image in doctree.findall(nodes.image):
        image["width"], image["height"] = map(str, imagesize.get(ROOT / image["uri"]))
        image["alt"] = words[0] if words else image["alt"]


def around(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Offer an example as a script and as an executed notebook, above its text.

    Of source pages the links back are left out: viewcode does not know under which of its names a thing is documented.
    """
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])
    name = pagename.removeprefix("examples/")
    if pagename.startswith("examples/") and name in NAMES:
        links = (f'<a class="download" href="{name}{end}" download>{name}{end}</a>' for end in (".py", ".ipynb"))
        context["body"] = f'<p class="downloads">Download {" ".join(links)}</p>' + context["body"]


def lay_down(app: Sphinx, exception: Exception | None) -> None:
    """Put the scripts beside their pages, and the notebooks with what came out of them."""
    if exception is None:
        cache = get_cache(nb_execution_cache_path)
        for name in NAMES:
            script = EXAMPLES / f"{name}.py"
            _, notebook = cache.merge_match_into_notebook(jupytext.read(script, fmt="py:percent"))
            notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            nbformat.write(notebook, app.outdir / "examples" / f"{name}.ipynb")
            shutil.copy(script, app.outdir / "examples")


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline_math, None), block_renderers=(display_math, None))
    app.connect("autodoc-process-docstring", drawn, priority=400)
    app.connect("autodoc-process-signature", handed_out)
    app.connect("source-read", in_reading_order)
    app.connect("doctree-read", described)
    app.connect("html-page-context", around)
    app.connect("build-finished", lay_down)
