"""What the tests of the pages share: the scenario of the command's tests, a browser, and the data in a page."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import extras
import pytest
import scenario

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def night(tmp_path_factory):
    """The scenario's queue. No test changes it, except the index beside its segments."""
    extras.need("zstd")
    where = tmp_path_factory.mktemp("night") / "queue"
    scenario.build(where)
    return where


@pytest.fixture(scope="session")
def data_of():
    """`data_of(page)` is the JSON that a page holds."""
    return lambda page: json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )


@pytest.fixture(scope="module")
def browser():
    """Chromium, headless: the system's, or else the one that Playwright fetched, which it cannot do everywhere."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[test]'")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with sync_api.sync_playwright() as playwright:
        fetched = shutil.which(playwright.chromium.executable_path)
        found = next(filter(None, map(shutil.which, BROWSERS)), fetched)
        if found is None:
            pytest.skip(f"no Chromium here (no {', '.join(BROWSERS)}): apt-get or playwright install chromium")
        started = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield started
        started.close()


@pytest.fixture
def show(browser, tmp_path):
    """`show(page)` opens a page as a file; at the end nothing may have been complained of, or fetched."""
    contexts, complaints, asked = [], [], []

    def show(page, **options):
        file = tmp_path / f"report-{len(contexts)}.html"
        file.write_text(page, encoding="ascii")
        context = browser.new_context(
            **{"timezone_id": "Asia/Kolkata", "viewport": {"width": 1200, "height": 900}, **options}
        )
        contexts.append(context)
        opened = context.new_page()
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(file.as_uri())
        opened.wait_for_function("document.querySelector('main').children.length > 1")
        assert asked.pop() == file.as_uri()
        opened.complaints, opened.asked, opened.failed = complaints, asked, []
        opened.on("requestfailed", lambda request: opened.failed.append(request.url))
        return opened

    yield show
    for context in contexts:
        context.close()
    assert asked == [], "the page fetched something"
    assert complaints == []


@pytest.fixture
def picture(tmp_path):
    """`picture(page, name)` keeps a picture of a whole page: in the folder KHARON_ARTEFACTS, if there is one."""

    def picture(page, name):
        folder = Path(os.environ.get("KHARON_ARTEFACTS") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"report-{name}.png", full_page=True)

    return picture
