"""Tests of the audit run without syncs: it reads what was written, on disk or not, and syncs take the most time."""

import pytest


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kharon.log.files.bring_to_disk", lambda *_args, **_options: None)
