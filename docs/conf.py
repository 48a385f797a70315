"""How Sphinx builds these pages: `sphinx-build -W -n docs docs/_build`, after `pip install -e '.[docs,cli,cron]'`.

Nothing is fetched: links to Python's and Trio's documentation are made here. A page is Markdown (MyST). The API comes
from docstrings, in which a single backtick marks code: it becomes a link where it names something of the reference.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from docutils import nodes

import kharon
import kharon.runtime.atomic
import kharon.runtime.groups
import kharon.testing

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
]
myst_heading_anchors = 3

autodoc_use_legacy_class_based = True  # since Sphinx 9 there are others, which sphinxcontrib-trio does not extend
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [  # "Raises, on entering:", without punctuation
    (f"Raises {when}", "params_style")
    for when in (
        "on entering",
        "at the end of the block",
        "from its verbs and on entering",
        "from its iteration",
        "from iterating and from poll",
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

PUBLIC = {
    f"{thing.__module__}.{thing.__qualname__}": f"{module.__name__}.{name}"
    for module in (kharon, kharon.testing)
    for name, thing in ((name, getattr(module, name)) for name in module.__all__)
    if inspect.isclass(thing) or inspect.isfunction(thing)
}
"""The public name of what is defined in a module whose name nobody needs."""


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Element | None:
    """Find what Sphinx did not: a public name, by where it is defined; what another project documents; mere code."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target in PUBLIC:
        python = env.get_domain("py")
        return python.resolve_xref(
            env, node["refdoc"], app.builder, "obj", PUBLIC[target], node, nodes.literal("", target.rpartition(".")[2])
        )
    page = ELSEWHERE.get(target.rpartition(".")[0])
    if page is not None:
        return nodes.reference("", "", contnode, internal=False, refuri=f"{page}#{target}")
    private = target.rpartition(".")[2].startswith("_")  # a type variable
    return contnode if private or node["reftype"] == "obj" else None


def tidy(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:  # noqa: ARG001
    """Change what napoleon would misread: it takes for a type what stands before a colon, and one name for an entry."""
    if what == "property":
        lines[:1] = lines[0].replace(":", ":\n", 1).split("\n ")
    text = "\n".join(lines)
    text = re.sub(r"^Raises, (.+):$", lambda found: f"Raises {found[1].replace('`', '')}:", text, flags=re.MULTILINE)
    text = re.sub(r"^Returns:\n +(.+)", r":returns: \1", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\w+(?:, \w+)+)(: .*(?:\n     .*)*)", one_by_one, text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def one_by_one(entry: re.Match[str]) -> str:
    """Give each of the names in an entry its own."""
    return "\n".join(f"    {name}{entry[2]}" for name in entry[1].split(", "))


def setup(app: Sphinx) -> None:
    """Connect what is here to Sphinx."""
    app.connect("autodoc-process-docstring", tidy, priority=400)
    app.connect("missing-reference", resolve)
