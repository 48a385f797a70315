"""The report in Chromium: nothing fetched, nothing complained of (`show` sees to both), and what a reader can do.

Skipped, with the reason, where there is no Chromium or no Playwright. What the page looks like is for people to judge:
its pictures are kept in the folder that KHARON_ARTEFACTS names, else with what pytest keeps.
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import scenario
import written
from nasty import NASTY
from test_report import nasty_queue
from written import at

import kharon as k
from kharon.audit.safe import safe
from kharon.log.directory import DirectoryLog
from kharon.web.report import report

TICKET = "invoice-1042"


@pytest.fixture(scope="module")
def queue_page(night):
    return report(night, now=scenario.NOW)


@pytest.fixture(scope="module")
def ticket_page(night):
    return report(night, TICKET, now=scenario.NOW)


@pytest.fixture(scope="module")
def busy_page(tmp_path_factory):
    """A ticket with 10,000 events."""
    where = written.write(tmp_path_factory.mktemp("busy") / "queue", written.many(10_000))
    return report(where, "busy", now=at(60_000))


def timeline(page):
    return page.get_by_role("slider", name="Timeline: events")


def told(slider):
    return slider.get_attribute("aria-valuetext")


def view(page):
    return [int(edge) for edge in settled(page).get_attribute("data-view").split()]


def settled(page):
    """The timeline, once what was asked for is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return timeline(page)


def rows(table):
    return [[cell.strip() for cell in row.split("\t")] for row in table.locator("tbody").inner_text().splitlines()]


# --- what is there ----------------------------------------------------------------------------------------------------


def test_a_queue(show, queue_page, data_of):
    page = show(queue_page)
    assert page.title() == "queue - Kharon queue report"
    headings = page.locator("h1, h2, h3").all_inner_texts()
    assert headings == [
        "queue",
        "Depth",
        "Throughput",
        "Failures",
        "Waits",
        "Run times",
        "By type",
        "Last failures",
        "About the log, tubes and schedules",
    ]
    assert "Records 1 to 482, 2026-03-10 18:00:00 to 2026-03-11 07:58:11 UTC (13 h 58 m)" in page.inner_text("header")
    tiles = page.locator(".tile").all_inner_texts()
    assert [tile.split("\n")[:2] for tile in tiles][:4] == [
        ["pending", "10"],
        ["added", "143"],
        ["done", "122"],
        ["failed", "9"],
    ]
    assert rows(page.get_by_role("table", name="By type"))[0] == [
        "thumbnail", "60", "56", "4 (6.7 %)", "0", "0 s", "0 s", "4.3 s", "6.6 s",
    ]  # fmt: skip
    assert "ValueError: not an image" in page.get_by_role("table", name="Last failures").inner_text()
    about = page.get_by_role("table", name="About the log, tubes and schedules").inner_text()
    assert "Segment compressed" in about
    assert "Tube limited" in about


def test_a_ticket(show, ticket_page):
    page = show(ticket_page)
    assert page.title() == f"{TICKET} - Kharon ticket report"
    assert page.locator("h2").all_inner_texts()[:5] == [
        "Timeline",
        "Attempts",
        "Events",
        "Payload",
        "The queue meanwhile",
    ]
    assert page.locator(".state").inner_text() == "failed"
    assert "backing off 10 m 40 s" in page.locator(".totals").inner_text()
    attempts = rows(page.get_by_role("table", name="Attempts"))
    assert [row[0] for row in attempts] == ["1", "2", "3", "4", "5", "6"]
    assert attempts[2] == ["3", "2026-03-11 04:08:28.435", "1 m", "worker-1", "lapsed by clock", "the lease ended"]
    assert attempts[5][4:] == ["failed", "ConnectionRefusedError: mail.example.org:25 (no attempts left after 6)"]
    assert len(rows(page.get_by_role("table", name="Events"))) == 13
    assert '"order": 1042' in page.get_by_role("region", name="Payload").inner_text()
    assert page.locator("svg .life").count() == 5


def test_an_empty_queue(show, tmp_path):
    log = DirectoryLog(tmp_path / "queue")
    list(log.open(written.BEGIN))
    log.abandon()
    page = show(report(tmp_path / "queue"))
    assert "No records yet" in page.inner_text("main")
    assert page.locator("svg, canvas, table").count() == 0


def test_a_ticket_without_a_beginning_and_one_of_a_single_instant(show, tmp_path):
    scenario.build(tmp_path / "queue", trimmed=True)
    first = next(
        record.event.id
        for record in k.read(tmp_path / "queue")
        if hasattr(record.event, "id") and k.timeline(k.history(tmp_path / "queue", record.event.id)).before
    )
    page = show(report(tmp_path / "queue", first, now=scenario.NOW))
    assert "whose beginning is missing from the log" in page.inner_text("main")
    assert page.get_by_role("table", name="Events").is_visible()
    where = written.write(tmp_path / "instant", [(0, "shop", [written.added("a"), written.e.TicketDeleted("a")])])
    page = show(report(where, "a", now=at(5)))
    assert page.locator(".state").inner_text() == "deleted, removed"
    timeline(page).press("+")
    assert "deleted" in told(settled(page))


# --- a screen reader, the keyboard ------------------------------------------------------------------------------------


def test_every_chart_has_its_numbers_in_words_and_in_a_table(show, queue_page, data_of):
    page = show(queue_page)
    time = data_of(queue_page)["time"]
    count = len(time["most_ready"])
    for title in ("Depth", "Throughput", "Failures", "Waits", "Run times"):
        slider = page.get_by_role("slider", name=f"{title} over time")
        assert slider.get_attribute("aria-valuemax") == str(count - 1)
        figure = page.get_by_role("figure", name=title)
        figure.locator("summary").press("Enter")
        table = page.get_by_role("table", name=f"{title}, slot by slot")
        seen = []
        while True:
            seen += rows(table)
            following = figure.get_by_role("button", name="Next")
            if following.get_attribute("aria-disabled") == "true":
                break
            following.press("Enter")
        assert len(seen) == count
        if title == "Depth":
            assert [row[2] for row in seen] == [str(value) for value in time["depth"]["ready"]]
            assert [row[-1] for row in seen] == [str(value) for value in time["most_ready"]]
        if title == "Throughput":
            assert [row[1:] for row in seen] == [
                [str(time["counts"][name][slot]) for name in ("done", "failed", "cancelled", "added")]
                for slot in range(count)
            ]


def test_a_chart_is_read_with_the_keyboard(show, queue_page):
    page = show(queue_page)
    depth = page.get_by_role("slider", name="Depth over time")
    depth.focus()
    depth.press("Home")
    assert told(depth).startswith("2026-03-10 18:00 to 18:15 UTC: running 0, ready 0, backing off 0, delayed 1")
    depth.press("ArrowRight")
    assert told(depth).startswith("2026-03-10 18:15 to 18:30 UTC: ")
    # The charts share the cursor: what the others were then is read beside them.
    throughput = page.get_by_role("figure", name="Throughput")
    assert "2026-03-10 18:15 to 18:30 UTC" in throughput.inner_text()
    depth.press("End")
    assert depth.get_attribute("aria-valuenow") == depth.get_attribute("aria-valuemax")
    depth.press("PageDown")
    assert int(depth.get_attribute("aria-valuenow")) < int(depth.get_attribute("aria-valuemax")) - 3
    depth.press("Tab")
    assert "18:15" not in throughput.inner_text()


def test_the_timeline_is_read_with_the_keyboard(show, ticket_page):
    page = show(ticket_page)
    slider = timeline(page)
    slider.focus()
    slider.press("Home")
    assert (
        told(slider) == "added at 2026-03-11 03:58:08.035 UTC, by shop, invoice in mail, due in 10 m, then delayed 10 m"
    )
    slider.press("ArrowRight")
    assert told(slider).startswith("claimed at 2026-03-11 04:08:08.035 UTC, by worker-1")
    assert slider.get_attribute("aria-valuenow") == "2"
    before = view(page)
    slider.press("+")
    closer = view(page)
    assert closer[1] - closer[0] == pytest.approx((before[1] - before[0]) / 2, abs=2)
    slider.press("Shift+ArrowRight")
    assert view(page)[0] > closer[0]
    slider.press("0")
    everything = view(page)
    assert everything[1] - everything[0] > 4 * 3600 * 1_000_000
    slider.press("End")
    assert "no attempts left after 6" in told(slider)
    assert "no attempts left after 6" in page.locator(".detail").inner_text()
    slider.press("ArrowRight")  # there is no further one
    assert slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax") == "13"
    slider.press("Enter")
    assert page.evaluate("document.activeElement.querySelector('th').textContent") == "322"


def test_an_attempt_is_shown_in_the_timeline(show, ticket_page):
    page = show(ticket_page)
    page.get_by_role("button", name="Attempt 3: show it in the timeline").press("Enter")
    low, high = view(page)
    assert high - low == pytest.approx(60_000_000 * 1.8, rel=0.01)
    assert told(timeline(page)).startswith("claimed at 2026-03-11 04:08:28.435 UTC, by worker-1, attempt 3")


def test_everything_that_can_be_used_has_a_name_and_can_be_reached(show, ticket_page):
    page = show(ticket_page)
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, [role=slider], [role=region], table, svg[tabindex]')].filter((one) =>
        !(one.getAttribute('aria-label') || one.textContent.trim()))"""
    )
    assert unnamed == []
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("[...document.querySelectorAll('[id]')].length") == page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size"
    )
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent")
        )
    assert {
        "To the report",
        "Earlier",
        "Zoom in",
        "Timeline: events",
        "Depth over time",
        "Run times over time",
    } <= reached


# --- the pointer ------------------------------------------------------------------------------------------------------


def test_the_wheel_zooms_only_with_ctrl_and_dragging_pans(show, ticket_page):
    page = show(ticket_page)
    timeline(page).press("0")
    timeline(page).press("+")
    box = timeline(page).bounding_box()
    middle, level = box["x"] + box["width"] / 2, box["y"] + 60
    page.mouse.move(middle, level)
    before = view(page)
    page.mouse.wheel(0, 40)
    assert view(page) == before
    page.evaluate("window.scrollTo(0, 0)")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    closer = view(page)
    assert closer[1] - closer[0] < before[1] - before[0]
    page.mouse.down()
    page.mouse.move(middle - 100, level, steps=3)
    page.mouse.up()
    dragged = view(page)
    assert dragged[0] > closer[0]
    assert dragged[1] - dragged[0] == pytest.approx(closer[1] - closer[0], abs=2)


def test_times_are_utc_and_local_on_hover(show, ticket_page):
    page = show(ticket_page)
    cell = page.get_by_role("table", name="Events").locator("time").first
    assert cell.inner_text() == "2026-03-11 03:58:08.035"
    assert cell.get_attribute("title") == "here: 2026-03-11 09:28:08.035 UTC+5:30"
    box = timeline(page).bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 75)  # on the bar of the delay
    settled(page)
    tip = page.locator(".tip").inner_text()
    assert tip.startswith("delayed, 10 m\n2026-03-11 04:0")
    assert re.search(r"here 2026-03-11 09:\d\d:\d\d\.\d{3} UTC\+5:30", tip)


def test_a_click_on_a_mark_chooses_its_event(show, ticket_page):
    page = show(ticket_page)
    box = timeline(page).bounding_box()
    page.mouse.click(box["x"] + 122, box["y"] + 40)  # the triangle of the adding
    settled(page)
    assert told(timeline(page)).startswith("added at 2026-03-11 03:58:08.035 UTC")
    assert page.locator(".chosen th").inner_text() == "305"


# --- how it looks -----------------------------------------------------------------------------------------------------


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


COLOURS = """() => {
  const probe = document.createElement('span');
  document.body.append(probe);
  const names = ['text', 'muted', 'accent', 'panel', 'page', 'soft', 'on', 'running', 'ready', 'backing-off', 'delayed',
    'blocked', 'kept', 'done', 'failed', 'lapsed', 'cancelled'];
  const found = Object.fromEntries(names.map((name) => {
    probe.style.color = 'var(--' + name + ')';
    return [name, getComputedStyle(probe).color];
  }));
  probe.remove();
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(show, ticket_page, scheme):
    page = show(ticket_page, color_scheme=scheme)
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert ground > 0.8 if scheme == "light" else ground < 0.05
    colours = page.evaluate(COLOURS)
    for text in ("text", "muted", "accent"):
        for behind in ("panel", "page", "soft"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for mark in ("running", "ready", "backing-off", "delayed", "blocked", "done", "failed", "lapsed", "cancelled"):
        assert contrast(colours[mark], colours["panel"]) >= 3, mark
    for bar in ("running", "ready", "backing-off", "delayed", "blocked"):
        assert contrast(colours["on"], colours[bar]) >= 4.5, bar
    assert contrast(colours["text"], colours["kept"]) >= 4.5


def test_the_canvas_follows_the_scheme(show, ticket_page):
    page = show(ticket_page, color_scheme="light")
    drawing = "document.querySelector('.stage canvas').toDataURL()"
    settled(page)
    light = page.evaluate(drawing)
    page.emulate_media(color_scheme="dark")
    settled(page)
    dark = page.evaluate(drawing)
    page.emulate_media(color_scheme="light")
    settled(page)
    assert page.evaluate(drawing) == light != dark


@pytest.mark.parametrize("width", [360, 700, 1600])
def test_nothing_sticks_out(show, queue_page, ticket_page, width):
    page = show(queue_page, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page = show(ticket_page, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = timeline(page).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [360, 1200])
def test_prose_is_read_without_scrolling_sideways_and_is_a_table_all_the_same(show, queue_page, ticket_page, width):
    """On a phone a row is a block in which each cell says what it is; only tables of numbers are wider than that."""
    names = {"Attempts": 6, "Events": 13, "Last failures": 10, "About the log, tubes and schedules": 10}
    for page, those in ((ticket_page, names), (queue_page, list(names)[2:])):
        shown = show(page, viewport={"width": width, "height": 800})
        for name in those:
            table = shown.get_by_role("table", name=name)
            assert table.evaluate("(table) => table.parentElement.scrollWidth <= table.parentElement.clientWidth"), name
            assert table.evaluate("(table) => table.parentElement.scrollHeight <= table.parentElement.clientHeight"), (
                name
            )
            assert table.get_by_role("rowheader").count() == names[name]
            assert table.get_by_role("columnheader").count() == (
                0 if width == 360 else table.locator("thead th").count()
            )
            cell = table.get_by_role("cell").first
            said = cell.evaluate("(cell) => getComputedStyle(cell, '::before').content")
            assert (said == f'"{cell.get_attribute("data-head")}"') == (width == 360)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_how_it_looks(show, queue_page, ticket_page, picture, scheme, width):
    """For people: on a desk and on a phone, by day and by night."""
    for name, page in (("queue", queue_page), ("ticket", ticket_page)):
        shown = show(page, color_scheme=scheme, viewport={"width": width, "height": 900})
        picture(shown, f"{name}-{scheme}-{width}")


def test_pictures_are_kept_where_the_environment_says(show, ticket_page, picture, monkeypatch, tmp_path):
    monkeypatch.delenv("KHARON_ARTEFACTS", raising=False)
    page = show(ticket_page)
    for folder in (tmp_path, tmp_path / "kept" / "here"):
        picture(page, "ticket")
        assert (folder / "report-ticket.png").read_bytes().startswith(b"\x89PNG")
        monkeypatch.setenv("KHARON_ARTEFACTS", str(tmp_path / "kept" / "here"))


# --- many events ------------------------------------------------------------------------------------------------------


def test_ten_thousand_events_are_drawn_as_what_fits(show, busy_page, picture, record_property):
    page = show(busy_page)
    slider = timeline(page)
    assert slider.get_attribute("aria-valuemax") == "10000"
    width = slider.bounding_box()["width"]
    # Two bars at most for each column of two pixels in five lanes, the overview, a mark for each 15 pixels, the axis.
    most = 5 * width + width + 2 * width / 15 + 60
    drawn = []

    def look():
        drawn.append(int(settled(page).get_attribute("data-drawn")))
        assert 0 < drawn[-1] <= most

    slider.press("0")
    look()
    slider.press("Home")
    for key in ["+"] * 22 + ["Shift+ArrowRight"] * 5 + ["PageUp", "-", "-", "-", "End", "0"]:
        slider.press(key)
        look()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 500, box["y"] + 90)
    page.keyboard.down("Control")
    for turn in [-60] * 12 + [60] * 12:
        page.mouse.wheel(0, turn)
        look()
    page.keyboard.up("Control")
    page.mouse.down()
    for step in range(10):
        page.mouse.move(box["x"] + 500 - 20 * step, box["y"] + 90)
        look()
    page.mouse.up()
    assert drawn[0] > 1000  # it is not that nothing is drawn
    record_property("elements drawn at most, of a ticket with 10,000 events", max(drawn))
    picture(page, "busy-ticket")


def test_ten_thousand_events_are_in_the_page_a_hundred_at_a_time(show, busy_page):
    page = show(busy_page)
    assert page.evaluate("document.querySelectorAll('*').length") < 6000
    table = page.get_by_role("table", name="Events")
    pages = page.get_by_role("navigation", name="Pages of: Events")
    assert pages.get_by_role("status").inner_text() == "rows 1 to 100 of 10,000"
    pages.get_by_role("button", name="Last").press("Enter")
    assert [row[0] for row in rows(table)] == [str(seq) for seq in range(9901, 10001)]
    pages.get_by_role("button", name="Next").press("Enter")
    assert pages.get_by_role("status").inner_text() == "rows 9,901 to 10,000 of 10,000"
    # The keyboard leads to an event wherever its row is.
    timeline(page).press("Home")
    timeline(page).press("PageUp")
    timeline(page).press("PageUp")
    assert pages.get_by_role("status").inner_text() == "rows 201 to 300 of 10,000"
    assert page.locator(".chosen th").inner_text() == "201"


# --- hostile text -----------------------------------------------------------------------------------------------------


def test_text_full_of_markup_is_shown_as_it_is(show, tmp_path):
    texts = [
        *NASTY.values(),
        '"><img src=x onerror="window.run=1">',
        "</script><script>window.run=1</script>",
        "{{data}}",
    ]
    for number, text in enumerate(texts):
        page = show(report(nasty_queue(tmp_path / f"queue-{number}", text), text, now=at(9)))
        assert page.locator("h1").inner_text().replace("\u00a0", " ") == " ".join(safe(text).split())
        assert page.evaluate("[window.run, document.scripts.length, document.images.length]") == [None, 2, 0]
        shown = page.evaluate("document.body.innerText")
        assert not re.search("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
        page.context.close()


def test_the_policy_stops_what_would_get_in_all_the_same(show, queue_page):
    page = show(queue_page)
    page.evaluate(
        """() => {
          window.stopped = [];
          document.addEventListener('securitypolicyviolation', (event) =>
            window.stopped.push(event.effectiveDirective));
          document.body.insertAdjacentHTML('beforeend',
            '<img src="https://example.org/x.png"><b onclick="window.run = 1">x</b>');
          document.body.lastElementChild.click();
          const script = document.createElement('script');
          script.textContent = 'window.run = 2';
          document.body.append(script);
          return fetch('https://example.org/').catch(() => null);
        }"""
    )
    page.wait_for_function("window.stopped.length >= 4")
    assert set(page.evaluate("window.stopped")) == {"img-src", "script-src-attr", "script-src-elem", "connect-src"}
    assert page.evaluate("window.run") is None
    assert len(page.complaints) >= 4
    assert len(page.failed) == len(page.asked) <= 1  # Chromium tells of the picture, and that it was not fetched
    page.complaints.clear()
    page.asked.clear()
