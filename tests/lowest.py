"""The lowest versions that pyproject.toml names, as constraints for pip: `pip install -c <(python tests/lowest.py) …`.

A bound that is never tried is a guess. `.ci/run` installs these together and runs the fast tests with them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

EXTRAS = ("cli", "cron", "docs", "export", "http", "zstd", "test")


def main() -> None:
    """Print `name==version` for each dependency, with the version of its `>=`."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    for requirement in needed:
        if found := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement):
            print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
