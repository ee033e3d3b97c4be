"""The evaluation report in a real browser, opened from disk without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from llava.command_line import run
from llava.eval.report import command
from tests.support.browser import violations
from tests.support.images import noise
from tests.support.runs import HOSTILE, mark, write_marks

pytestmark = pytest.mark.browser

QUESTIONS = 60


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: A is wrong at 4 and 8 and so on, B at 6 only; A says nothing clear at 5, something hostile at 7."""
    folder = tmp_path_factory.mktemp("report")
    noise().save(folder / "1.png")
    first = [mark(n, float(n % 4 != 0), "Yes." if n % 4 else "No.") for n in range(1, QUESTIONS + 1)]
    first[4] = mark(5, 0.0, "Well, a zebra perhaps.", parsed=None)
    first[6] = mark(7, 1.0, HOSTILE, parsed=HOSTILE, note=HOSTILE)
    second = [mark(n, float(n != 6), "No." if n == 6 else "Yes.") for n in range(1, QUESTIONS + 1)]
    files = [
        write_marks(folder / f"{number}.json", marks, model=name)
        for number, (name, marks) in enumerate((("A", first), (f"B {HOSTILE}", second)))
    ]
    words = [*map(str, files), "--image-folder", str(folder), "--output", str(folder / "report.html")]
    assert run(command.add_arguments, command.main, argv=words) == 0
    return folder / "report.html"


@dataclass
class Opened:
    """A tab with the report; notes whatever goes wrong in it or is asked of a network."""

    page: Page
    faults: list[str] = field(default_factory=list)

    @property
    def questions(self) -> Locator:
        return self.page.locator(".question")

    @property
    def count(self) -> Locator:
        return self.page.locator("#count")

    def show(self, outcome: str) -> None:
        self.page.locator("#show label", has_text=outcome).first.click()

    def ids(self) -> list[str]:
        return [text.removeprefix("Question ") for text in self.questions.locator("h3").all_inner_texts()]


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    yield from open_tab(browser, report.as_uri())


def open_tab(browser: Browser, address: str, **settings: object) -> Iterator[Opened]:
    context = browser.new_context(offline=True, **settings)
    tab = Opened(context.new_page())
    tab.page.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.page.on("console", lambda line: tab.faults.append(line.text) if line.type in ("error", "warning") else None)
    tab.page.on("dialog", lambda dialog: tab.faults.append(dialog.message) or dialog.dismiss())
    own = (address.partition("#")[0], "data:")
    tab.page.on("request", lambda asked: None if asked.url.startswith(own) else tab.faults.append(asked.url))
    tab.page.goto(address)
    yield tab
    assert tab.faults == []
    context.close()


def test_answers_are_filtered_searched_and_shown_side_by_side_with_their_image(opened):
    expect(opened.count).to_have_text("60 of 60 questions")
    first = opened.questions.first
    expect(first.locator(".answer")).to_have_count(2)
    assert first.locator("img").evaluate("image => image.complete && image.naturalWidth") == 64
    expect(opened.questions.nth(2)).to_contain_text("2.png: not shown")

    opened.show("wrong")
    expect(opened.count).to_have_text("16 of 60 questions")
    assert opened.ids()[:3] == ["4", "6", "8"]
    opened.page.get_by_label("Outcome of").select_option("1")  # the second run
    expect(opened.count).to_have_text("1 of 60 questions")
    assert opened.ids() == ["6"]

    opened.page.get_by_role("row", name="A").get_by_role("link", name="15").first.click()
    expect(opened.count).to_have_text("15 of 60 questions")
    expect(opened.page.locator("#answers")).to_be_in_viewport()
    assert opened.ids()[:3] == ["4", "8", "12"]

    opened.page.get_by_role("button", name="Show all again").click()
    opened.show("unparsable")
    assert opened.ids() == ["5"]
    opened.show("disagreeing")
    assert opened.ids()[:5] == ["4", "5", "6", "7", "8"]

    opened.page.get_by_role("button", name="Show all again").click()
    opened.page.get_by_label("Search").fill("ZEBRA")
    expect(opened.count).to_have_text("1 of 60 questions")
    expect(opened.page.locator("mark")).to_have_text("zebra")
    opened.page.get_by_label("Search").fill("no such words")
    expect(opened.count).to_contain_text("None of 60 questions fits")


def test_a_view_is_kept_in_the_address_and_a_question_has_one_of_its_own(opened, browser, report):
    opened.page.get_by_label("Search").fill("number 5")
    opened.page.locator("#category").select_option(label="hard")
    expect(opened.count).to_have_text("3 of 60 questions")  # 51, 54 and 57
    opened.page.reload()
    expect(opened.count).to_have_text("3 of 60 questions")
    for tab in open_tab(browser, f"{report.as_uri()}#question=57"):
        expect(tab.questions.nth(56)).to_be_focused()
        expect(tab.questions.nth(56)).to_be_in_viewport()


def test_hostile_text_is_shown_as_text(opened):
    shown = opened.page.locator("[data-number='6'] .answer").first
    expect(shown.locator("p.text").first).to_have_text(HOSTILE)
    expect(opened.page.locator(".runs li").nth(1)).to_contain_text(HOSTILE)
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.hacked") is None
    # Even where markup finds a way in, the page's policy runs no script of it; the console says so.
    opened.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=\"window.hacked = 3\">')"
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.hacked") is None
    assert all("Content Security Policy" in fault for fault in opened.faults)
    opened.faults.clear()


def test_the_list_grows_as_it_is_read_and_keys_walk_through_it(opened):
    assert opened.questions.count() < QUESTIONS
    opened.page.keyboard.press("j")
    expect(opened.questions.first).to_be_focused()
    opened.page.keyboard.press("p")
    expect(opened.questions.first.locator("figure")).to_have_class("large")
    for _ in range(QUESTIONS):
        opened.page.keyboard.press("j")
    expect(opened.questions).to_have_count(QUESTIONS)
    expect(opened.questions.last).to_be_focused()
    opened.page.keyboard.press("k")
    expect(opened.questions.nth(QUESTIONS - 2)).to_be_focused()
    opened.page.keyboard.press("/")
    opened.page.keyboard.type("jjkk/")
    expect(opened.page.get_by_label("Search")).to_have_value("jjkk/")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_nothing_overflows_and_axe_finds_nothing_serious(browser, report, width, dark):
    settings = {"viewport": {"width": width, "height": 844}, "color_scheme": "dark" if dark else "light"}
    for tab in open_tab(browser, report.as_uri(), **settings):
        expect(tab.questions.first).to_be_visible()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(tab.page) == []
