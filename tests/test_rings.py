"""Imports point inwards only, and the pure ring imports nothing that reads or changes the world.

This reads the source of every module, with the imports inside functions and under TYPE_CHECKING.
"""

import ast
from pathlib import Path

import pytest

import kharon

ROOT = Path(kharon.__file__).parent

# From the inside out. A module imports from inner rings and from its own part of its own ring. So `store` and `audit`
# do not know each other, and neither do the edges, such as `cli` and `web`. An edge may also import the public face.
RINGS = (
    {"errors"},
    {"model"},
    {"settings"},
    {"log"},
    {"store", "audit"},
    {"runtime"},
    {"simulate"},
    {"_face", "cli", "web", "metrics", "testing", "__main__", "__init__"},
)
RING_OF = {part: number for number, ring in enumerate(RINGS) for part in ring}
EDGE = len(RINGS) - 1
# The exceptions: a module that starts another part, and the module that it may import for it.
STARTS = {
    "kharon.__main__": "kharon.cli",  # `python -m kharon` runs the command
    "kharon.cli.report": "kharon.web.report",  # the command that writes the page to a file
}
IMPURE = {
    "asyncio",
    "fcntl",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "trio",
    "uuid",
}
READS_A_CLOCK = {"now", "utcnow", "today"}
TOUCHES_THE_WORLD = {"open", "print", "input", "__import__", "eval", "exec"}


def imports(source: str, module: str) -> set[str]:
    """The dotted names that a module imports, relative ones resolved; `from a import b` counts as `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def part_of(name: str) -> str | None:
    """The part of Kharon that a dotted name belongs to: "model", "errors" …; "__init__" for the face; None: no part."""
    first, *rest = name.split(".")
    if first != "kharon":
        return None
    known = rest[0] if rest else "__init__"
    # `from kharon import Ticket` is of the face, `from kharon import errors` is not.
    return known if known in RING_OF or (ROOT / known).exists() or (ROOT / f"{known}.py").exists() else "__init__"


def offences(source: str, module: str) -> list[str]:
    """What a module (a dotted name; a package's is that of its `__init__`) does against the rules."""
    part = module.split(".")[1]
    if part not in RING_OF:
        return [f"{module}: has no place in RINGS; give it one"]
    found = []
    for name in sorted(imports(source, module)):
        top, other = name.split(".")[0], part_of(name)
        if other is not None and not (_may_import(part, other) or _starts(module, name)):
            found.append(f"{module}: imports {name}, which is not further in than {part}")
        if part in {"errors", "model", "settings"} and top in IMPURE:
            found.append(f"{module}: imports {top}, and is pure")
        if part == "log" and top == "trio":
            found.append(f"{module}: imports trio, and is synchronous")
    if part in {"errors", "model", "settings"}:
        found.extend(f"{module}: calls {name}(), and is pure" for name in sorted(_impure_calls(source)))
    return found


def _may_import(part: str, other: str) -> bool:
    if part == "__init__":
        return other == "_face"  # which imports all that is shown, once it is asked for
    if part == other:
        return True
    if RING_OF.get(other, EDGE) < RING_OF[part]:
        return True
    return RING_OF[part] == EDGE and part != "_face" and other == "__init__"


def _starts(module: str, name: str) -> bool:
    return module in STARTS and f"{name}.".startswith(f"{STARTS[module]}.")


def _impure_calls(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in READS_A_CLOCK:
                found.add(node.func.attr)
            elif isinstance(node.func, ast.Name) and node.func.id in TOUCHES_THE_WORLD:
                found.add(node.func.id)
    return found


def module_name(path: Path) -> str:
    parts = ["kharon", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts)


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_inwards(path):
    assert offences(path.read_text(encoding="utf-8"), module_name(path)) == []


def test_the_rings_are_all_there():
    parts = {part_of(module_name(path)) for path in MODULES}
    assert {"__init__", "errors", "settings", "model", "log", "testing"} <= parts
    assert sum(part_of(module_name(path)) == "model" for path in MODULES) > 5


# --- the checker sees what it is there to see -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("kharon.model.decide", "import trio", "imports trio"),
        ("kharon.model.decide", "import os.path", "imports os"),
        ("kharon.model.decide", "from time import time", "imports time"),
        ("kharon.model.decide", "def f():\n    import random", "imports random"),
        ("kharon.model.decide", "import logging as log", "imports logging"),
        ("kharon.model.decide", "from pathlib import Path", "imports pathlib"),
        ("kharon.model.decide", "from datetime import datetime\ndatetime.now()", "calls now()"),
        ("kharon.model.decide", "def f(): return open('x')", "calls open()"),
        ("kharon.model.decide", "from kharon.log.record import Record", "kharon.log.record.Record"),
        ("kharon.model.decide", "from kharon.settings import Settings", "kharon.settings.Settings"),
        ("kharon.model.decide", "from kharon import Ticket", "kharon.Ticket"),
        ("kharon.model.decide", "from kharon import log", "kharon.log"),
        ("kharon.model.decide", "import kharon", "imports kharon"),
        ("kharon.model.decide", "from ..log import record", "kharon.log.record"),
        ("kharon.model.decide", "from .. import store", "kharon.store"),
        ("kharon.model.__init__", "from .log import x\nfrom ..store import y", "kharon.store.y"),
        ("kharon.errors", "from kharon.model.ticket import Ticket", "kharon.model"),
        ("kharon.settings", "from kharon.log.record import Record", "kharon.log"),
        ("kharon.settings", "import os", "imports os"),
        ("kharon.log.record", "import trio", "is synchronous"),
        ("kharon.log.record", "from trio import lowlevel", "is synchronous"),
        ("kharon.log.record", "from kharon.store.local import Local", "kharon.store"),
        ("kharon.log.record", "from kharon.audit import verify", "kharon.audit"),
        ("kharon.store.local", "from kharon.runtime.kharon import Kharon", "kharon.runtime"),
        ("kharon.store.local", "from kharon.audit import verify", "kharon.audit"),
        ("kharon.store.local", "if TYPE_CHECKING:\n    from kharon.runtime.workers import W", "kharon.runtime"),
        ("kharon.audit.replay", "from kharon.store.local import Local", "kharon.store"),
        ("kharon.audit.replay", "from kharon.runtime.queue import Queue", "kharon.runtime"),
        ("kharon.runtime.kharon", "from kharon.cli import main", "kharon.cli"),
        ("kharon.runtime.kharon", "import kharon.web.app", "kharon.web"),
        ("kharon.runtime.kharon", "from kharon import metrics", "kharon.metrics"),
        ("kharon.runtime.kharon", "from kharon.testing import TrioClock", "kharon.testing"),
        ("kharon.__init__", "from kharon.testing import TrioClock", "kharon.testing"),
        ("kharon.__init__", "from kharon.metrics import count", "kharon.metrics"),
        ("kharon.__init__", "from kharon.runtime.kharon import Kharon", "kharon.runtime"),
        ("kharon._face", "from kharon.testing import TrioClock", "kharon.testing"),
        ("kharon._face", "from kharon.cli import main", "kharon.cli"),
        ("kharon._face", "import kharon", "imports kharon"),
        ("kharon.cli.main", "from kharon.testing import TrioClock", "kharon.testing"),
        ("kharon.cli.main", "from kharon.web.report import report", "kharon.web"),
        ("kharon.cli.main", "def f():\n    from kharon.web import report", "kharon.web"),
        ("kharon.cli.report", "from kharon.web.over_time import OverTime", "kharon.web"),
        ("kharon.web.report", "from kharon.cli.times import local_time", "kharon.cli"),
        ("kharon.web.report", "import kharon.cli", "kharon.cli"),
        ("kharon.simulate.simulation", "from kharon.cli.stats import print_stats", "kharon.cli"),
        ("kharon.runtime.kharon", "from kharon.simulate.tables import comparison", "kharon.simulate"),
        ("kharon.audit.replay", "from kharon.simulate.recording import Recorder", "kharon.simulate"),
        ("kharon.helpers", "", "has no place"),
    ],
)
def test_an_offence_is_seen(module, source, words):
    found = offences(source, module)
    assert len(found) == 1, found
    assert words in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kharon.model.decide", "import math\nfrom kharon.errors import LeaseLost\nfrom kharon.model import events"),
        ("kharon.model.decide", "from . import events\nfrom .ticket import Ticket\nfrom ..errors import LeaseLost"),
        ("kharon.model.decide", "ticket.open()\ncontext.now\nopened()"),
        ("kharon.log.directory", "import os\nfrom kharon.model.events import Event\nopen('x')"),
        ("kharon.audit.replay", "from kharon.log.record import Record\nfrom kharon.model.projection import Projection"),
        ("kharon.store.local", "import trio\nfrom kharon.log.memory import MemoryLog\nfrom kharon.settings import S"),
        ("kharon.runtime.kharon", "from kharon.store.local import Local\nfrom kharon.audit.replay import replay"),
        ("kharon.__init__", "from kharon._face import Kharon"),
        ("kharon._face", "from kharon.runtime.kharon import Kharon\nfrom kharon.model.ticket import Ticket"),
        ("kharon.cli.main", "import kharon\nfrom kharon import Ticket\nfrom kharon.simulate.tables import comparison"),
        ("kharon.cli.report", "from kharon.cli.output import Output\nfrom kharon.web.report import report"),
        ("kharon.web.report", "from kharon import Ticket\nfrom kharon.audit.words import details"),
        ("kharon.simulate.simulation", "from kharon.runtime.kharon import Kharon\nfrom kharon.audit.measure import By"),
        ("kharon.__main__", "from kharon.cli import main"),
        ("kharon.testing", "import trio\nfrom kharon.runtime.kharon import Kharon\nimport kharon"),
    ],
)
def test_what_is_no_offence_is_not_seen_as_one(module, source):
    assert offences(source, module) == []
