"""How Sphinx builds these pages: `sphinx-build -W -n docs docs/_build`, after `pip install -e '.[docs,cli,cron]'`.

Nothing is fetched: links to Python's and Trio's documentation are made here. A page is Markdown (MyST). The API comes
from docstrings, in which a single backtick marks code: it becomes a link where it names something of the reference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

import kharon

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "Kharon"
author = "the Kharon contributors"
release = version = kharon.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Kharon {release}"

default_role = "py:obj"
nitpicky = True
nitpick_ignore = [  # what tests alone hand over, as they got it: the modules say what it is
    ("py:class", "kharon.model.commands.Command"),
    ("py:class", "msgspec.UnsetType"),  # the type of a keyword that is not given; users never write it
]
myst_heading_anchors = 3

autodoc_use_legacy_class_based = True  # since Sphinx 9 there are others, which sphinxcontrib-trio does not extend
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [  # as `tidy` leaves them: without punctuation
    (heading, "params_style")
    for heading in (
        "Raises on entering",
        "Raises at the end of the block",
        "Raises from its verbs and on entering",
        "Raises from its iteration",
        "Raises from iterating and from poll",
        "Set by the queue and not by you",
    )
]

PYTHON = "https://docs.python.org/3/library/"
TRIO = "https://trio.readthedocs.io/en/stable/reference-"
ELSEWHERE = {
    "collections.abc": PYTHON + "collections.abc.html",
    "contextlib": PYTHON + "contextlib.html",
    "datetime": PYTHON + "datetime.html",
    "os": PYTHON + "os.html",
    "pathlib": PYTHON + "pathlib.html",
    "trio": TRIO + "core.html",
    "trio.testing": TRIO + "testing.html",
}
"""The pages of what other projects document, by module. The anchors on them are the full names."""


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Element | None:  # noqa: ARG001
    """Find what Sphinx did not: what another project documents; a type variable; in a backtick, mere code."""
    if node.get("refdomain") != "py":
        return None
    module, _, name = node["reftarget"].rpartition(".")
    if module in ELSEWHERE:
        return nodes.reference("", "", contnode, internal=False, refuri=f"{ELSEWHERE[module]}#{module}.{name}")
    return contnode if name.startswith("_") or node["reftype"] == "obj" else None


def shorten(app: Sphinx, tree: nodes.document, page: str) -> None:  # noqa: ARG001
    """Show the types of attributes by their names, as in signatures, without their modules."""
    for type_ in tree.findall(nodes.emphasis):
        if isinstance(type_.parent, nodes.reference) and type_.astext().startswith((*ELSEWHERE, "kharon.")):
            type_[:] = [nodes.Text(type_.astext().rpartition(".")[2])]


def tidy(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:  # noqa: ARG001
    """Write what is meant in the way that napoleon and docutils read.

    Napoleon takes for a type what stands before a colon, takes an entry for one name, and knows no heading with commas.
    Docutils shows code only behind two colons.
    """
    text = "\n".join(lines)
    if what == "property":
        text = re.sub(r"^(.*?):\s", r"\1:\n", text, count=1)
    text = re.sub(r"^\w.*[,`].*:$(?=\n +\w+: )", plain, text, flags=re.MULTILINE)
    text = re.sub(r"^Returns:\n +(.+)", r":returns: \1", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\w+(?:, \w+)+): (.*(?:\n     .*)*)", one_by_one, text, flags=re.MULTILINE)
    text = re.sub(r"^Cost: .*(?:\n +.*)+", lambda found: re.sub(r"\n +", " ", found[0]), text, flags=re.MULTILINE)
    text = re.sub(r"^(\S.*)\n\n(?=    \S)", r"\1\n\n::\n\n", text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def plain(heading: re.Match[str]) -> str:
    """Leave out the punctuation."""
    return re.sub(r"[,`]", "", heading[0])


def one_by_one(entry: re.Match[str]) -> str:
    """Give each name of an entry the text; of errors, each its part of it, if there are as many parts as errors."""
    names = entry[1].split(", ")
    parts = entry[2].split("; ")
    if len(parts) != len(names) or not entry[1][0].isupper():
        parts = [entry[2]] * len(names)
    return "\n".join(f"    {name}: {part}" for name, part in zip(names, parts, strict=True))


def setup(app: Sphinx) -> None:
    """Connect what is here to Sphinx."""
    app.connect("autodoc-process-docstring", tidy, priority=400)
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", shorten)
