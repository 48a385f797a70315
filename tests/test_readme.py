"""Every block of code in README.md and docs/workflows.md runs, and what it is said to print is what it prints.

A block with `trio.run`, or with its own `import kharon` and no `await`, is a program: it runs as one, in a directory
that all programs share. The others are fragments of one async function, run in order with `kh` open in memory. The two
commands that make a virtual environment are run by `.ci/run`, which takes them from the README; those of `kharon` by
`tests/cli/test_docs.py`.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

import kharon

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {path.name: BLOCK.findall(path.read_text(encoding="utf-8")) for path in (README, PROJECT / "docs/workflows.md")}
ELSEWHERE = {"audit.md": "cli/test_docs.py", "format.md": "test_format_doc.py"}
"""The other pages with code, and the tests that run it."""


def is_program(code: str) -> bool:
    return "trio.run(" in code or ("import kharon" in code and "await " not in code)


@pytest.mark.parametrize("blocks", PAGES.values(), ids=PAGES)
def test_every_block_is_of_a_kind_that_is_run(blocks) -> None:
    assert {kind for kind, _ in blocks} <= {"python", "console", "text"}
    assert len([code for kind, code in blocks if kind == "python"]) >= 8


def test_every_page_with_code_is_run_by_a_test() -> None:
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]
    assert {path.name for path in pages if "```" in path.read_text(encoding="utf-8")} == {*PAGES, *ELSEWHERE}
    for page, test in ELSEWHERE.items():
        assert f'"{page}"' in (PROJECT / "tests" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("blocks", PAGES.values(), ids=PAGES)
def test_programs_run_and_print_what_is_shown(tmp_path: Path, blocks) -> None:
    shown = 0
    for index, (kind, code) in enumerate(blocks):
        if kind == "python" and is_program(code):
            ran = subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert ran.returncode == 0, f"{code}\n{ran.stderr}"
            assert not ran.stderr, f"{code}\n{ran.stderr}"
            following = blocks[index + 1] if index + 1 < len(blocks) else ("", "")
            if following[0] == "text":
                assert ran.stdout == following[1]
                shown += 1
    assert shown == len([kind for kind, _ in blocks if kind == "text"])


@pytest.mark.parametrize("page", PAGES)
async def test_fragments_run(page) -> None:
    names: dict[str, object] = {"kharon": kharon, "trio": trio, "__name__": page}
    async with kharon.open(":memory:") as kh:
        names["kh"] = kh
        for kind, code in PAGES[page]:
            if kind == "python" and not is_program(code):
                compiled = compile(code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                running = eval(compiled, names)
                if inspect.iscoroutine(running):
                    await running


def test_commands_are_those_that_ci_runs() -> None:
    # `.ci/run` takes its commands from the README, by these words; those of `kharon` are run by tests/cli/test_docs.py.
    # Any other command would be run nowhere.
    shown = {
        page: [line for kind, code in blocks if kind == "console" for line in code.splitlines() if line[:2] == "$ "]
        for page, blocks in PAGES.items()
    }
    shown["README.md"] = [line for line in shown["README.md"] if not line.startswith("$ kharon ")]
    setup = "$ python3 -m venv .venv && .venv/bin/pip install --quiet "
    assert shown == {
        "README.md": [
            f"{setup}. && .venv/bin/python examples/checksums.py",
            "$ .venv/bin/python examples/checksums.py .venv",
            "$ .venv/bin/python examples/checksums.py .venv",
            f"{setup}-e '.[test]' && .venv/bin/python -m pytest -q -n auto",
        ],
        "workflows.md": [],
    }


def test_the_settings_table_is_true() -> None:
    table = README.read_text(encoding="utf-8").split("| setting | default |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE)
    defaults = kharon.Settings()
    assert [name for name, _ in rows] == [field.name for field in attrs.fields(kharon.Settings)]
    for name, shown in rows:
        value = eval(shown.strip("`").replace(" ", ""), vars(kharon))
        assert getattr(defaults, name) == value, f"the README says that {name} is {shown}"
