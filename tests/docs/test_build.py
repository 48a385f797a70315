"""Sphinx builds the pages without a warning: every link leads somewhere, and every docstring is well formed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pages import PROJECT

for package in ("sphinx", "furo", "myst_parser", "sphinxcontrib_trio"):
    pytest.importorskip(package, reason="needs kharon[docs]")


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    options = ["-q", "-W", "-n", "--keep-going", "-d", str(tmp_path / "doctrees")]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(PROJECT / "docs"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "html" / "reference" / "api.html").read_text(encoding="utf-8")
    assert "kharon.open" in page
    assert 'id="kharon.Kharon.add"' in page
