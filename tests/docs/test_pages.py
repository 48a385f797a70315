"""Every block of code of README.md and of the documentation runs, and prints what the page shows.

`pages` says how a block is run. After an intended change, write the outputs anew, and read the difference:

    KHARON_WRITE_EXPECTED=1 python -m pytest tests/docs && git diff docs README.md
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path

import pytest
from pages import ELSEWHERE, PROJECT, Block, Reader, alike, blocks_of, with_outputs

pytest.importorskip("typer", reason="needs kharon[cli]")
pytest.importorskip("cronsim", reason="needs kharon[cron]")

BY_OTHERS = {"docs/reference/format.md": "tests/docs/test_format.py"}
"""The pages whose code another test runs."""
PAGES = {
    str(path.relative_to(PROJECT)): path
    for path in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]
    if "```" in path.read_text(encoding="utf-8")
}
RUN = sorted(PAGES.keys() - BY_OTHERS.keys())
CI = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RUN)
async def test_a_page_runs_and_prints_what_is_shown(name: str, tmp_path: Path, monkeypatch) -> None:
    page = Reader(PAGES[name], tmp_path)
    monkeypatch.chdir(page.where)
    await page.read()
    assert sum(page.kinds.values()) == len(page.blocks)
    now = with_outputs(page.text, page.outputs)
    if os.environ.get("KHARON_WRITE_EXPECTED"):
        page.page.write_text(now, encoding="utf-8")
    if page.text != now:
        pytest.fail(difference(page.text, now))


def difference(shown: str, now: str) -> str:
    """The lines that differ, without what differs from run to run if that leaves any."""
    pairs = ((alike(shown), alike(now)), (shown, now))
    before, after = next(pair for pair in pairs if pair[0] != pair[1])
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), "shown", "now", lineterm=""))


def test_pages_are_found_and_those_that_others_run_are_run() -> None:
    assert {"README.md", "docs/reference/format.md"} <= PAGES.keys()
    for page, test in BY_OTHERS.items():
        assert f'"{Path(page).name}"' in (PROJECT / test).read_text(encoding="utf-8")


def _commands(name: str) -> list[str]:
    consoles = [block for block in blocks_of(PAGES[name].read_text(encoding="utf-8")) if block.kind == "console"]
    return [command.removeprefix("$ ").rstrip() for block in consoles for command, _output in block.commands]


def test_ci_runs_the_commands_that_are_not_run_here() -> None:
    # `.ci/run` takes two commands from the README, by these words. All others that use the environment are in it.
    taken = [command for command in _commands("README.md") if command.startswith("python3 -m venv ")]
    job, tests = taken
    assert job.startswith("python3 -m venv .venv && .venv/bin/pip install --quiet ")
    assert tests.startswith("python3 -m venv .venv && .venv/bin/pip install --quiet ")
    assert "examples/checksums.py" in job
    assert "pytest" in tests
    assert "command_of 'examples/checksums.py'" in CI
    assert "command_of 'pytest'" in CI
    others = {command for name in RUN for command in _commands(name) if ELSEWHERE.match(f"$ {command}")} - {*taken}
    unknown = [command for command in others if not command.startswith("pip install ") and f"\n{command}\n" not in CI]
    assert not unknown


def test_extras_that_pages_install_exist() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = set()
    for path in PAGES.values():
        for extras in re.findall(r"(?:kharon|(?<=')\.)\[([\w,]+)\]", path.read_text(encoding="utf-8")):
            found |= set(extras.split(","))
    assert {"cron", "cli"} <= found <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_links_of_a_page_lead_to_files(name: str) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", PAGES[name].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|#|mailto:", link)]
    missing = [link for link in links if not (PAGES[name].parent / link.partition("#")[0]).exists()]
    assert not missing


# --- the reader itself ------------------------------------------------------------------------------------------------


def test_blocks_of_a_page() -> None:
    text = """\
```{toctree}
:glob:
```
<!-- file: app.py, not run -->
```python
import kharon
```
- a list

  <!-- night -->
  ```console
  $ one \\
  more
  it says
  $ two
  ```
"""
    saved, console = blocks_of(text)
    assert saved == Block("python", "import kharon\n", 5, file="app.py", runs=False)
    assert console == Block("console", "$ one \\\nmore\nit says\n$ two\n", 11, 2, night=True)
    assert console.commands == [("$ one \\\nmore\n", "it says\n"), ("$ two\n", "")]
    assert with_outputs(text, {11: "$ one \\\nmore\nother\n$ two\nlines\n"}) == text.replace(
        "  it says\n  $ two\n", "  other\n  $ two\n  lines\n"
    )


@pytest.mark.parametrize(
    ("shown", "now"),
    [
        ("added   2026-03-11 03:58:08.035Z  by ann", "added  2027-01-01 00:00:00Z  by ann"),
        ("took 1 h 4 m, 2.5 s late", "took 3 ms, 4 s late"),
        (f"anchor {'0a' * 16} 5 {'b1' * 32}", f"anchor {'ff' * 16} 5 {'0c' * 32}"),
        ("1,024 bytes, 4.5 MB", "9 bytes, 10 MB"),
        ("claimed  worker-1  attempt 1", "claimed  worker-4  attempt 1"),
        ("Killed", "bash: line 3:  4711 Killed                  python app.py"),
        ("[1] 4711\n[1]+  Killed                  python app.py", "bash: line 2: 12 Killed     python app.py"),
    ],
)
def test_what_differs_from_run_to_run_is_not_compared(shown: str, now: str) -> None:
    assert alike(shown) == alike(now)


def test_all_else_is_compared() -> None:
    assert alike("attempt 1 of 5: failed") != alike("attempt 2 of 5: failed")


async def test_a_page_that_is_wrong_is_found_out(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "wrong.md"
    page.write_text(
        "<!-- file: app.py -->\n```python\nprint('one')\n```\n```text\ntwo\n```\n"
        "```console\n$ cd /; export WHO=ann\n$ echo $WHO in $PWD; python app.py\nbob in /\n```\n"
    )
    read = Reader(page, tmp_path)
    await read.read()
    assert read.outputs == {
        5: "one\n",
        8: "$ cd /; export WHO=ann\n$ echo $WHO in $PWD; python app.py\n" + read.outputs[8].partition("app.py\n")[2],
    }
    assert "ann in /\n" in read.outputs[8]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```python\nimport kharon\nassert False\n```\n", "AssertionError"),
        ("```text\nout of the blue\n```\n", "no program"),
        ("```cobol\nSTOP RUN.\n```\n", "nothing runs"),
        ("```console\n$ exit\n```\n", "has ended the shell"),
        ("```{code-block} python\n1/0\n```\n", "nothing runs"),
    ],
)
async def test_a_block_that_cannot_run_is_an_error(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.md").write_text(text)
    with pytest.raises(AssertionError, match=why):
        await Reader(tmp_path / "wrong.md", tmp_path).read()


async def test_what_a_page_kills_is_dead_and_what_it_printed_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "killed.md"
    page.write_text(
        "<!-- file: app.py, not run -->\n```python\nimport time\nprint('up')\ntime.sleep(600)\n```\n"
        "```console\n$ python app.py > out & until grep -s up out; do sleep 0.1; done; kill -9 $!\nup\n"
        "$ wait\n[1]+  Killed                  python app.py > out\n```\n"
    )
    read = Reader(page, tmp_path)
    await read.read()
    assert with_outputs(read.text, read.outputs) == read.text
