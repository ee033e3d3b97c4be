"""The web page in a real browser, before a real controller and real workers.

Two models are served: `tiny`, and `babble`, whose random weights write on until they may not.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from playwright.sync_api import expect

from llava.serve.arena.vote_log import Vote, read_votes
from llava.serve.service.server import free_port
from tests.support.browser import TIMEOUT_MS, OpenedPage
from tests.support.images import encoded, noise
from tests.support.serving import Service, wait_until

pytestmark = pytest.mark.browser

REPOSITORY = Path(__file__).parents[4]
SNEAKER = REPOSITORY / "playground" / "images" / "sneaker.png"
SCENE = REPOSITORY / "playground" / "images" / "scene.png"
BABBLE = (
    "--model-path",
    "tests/data/llava-v1.5-tiny",
    "--vision-tower",
    "tests/data/clip-tiny",
    "--model-name",
    "babble",
)
NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}
QUESTION = "What is in the picture?"


class Worker(Service):
    def __init__(self, controller: str, *model: str):
        port = free_port()
        self.url = f"http://localhost:{port}"
        super().__init__(
            *("-m", "llava.serve.model_worker", "--controller", controller, "--port", str(port), *model), **NO_SECRETS
        )

    def figure(self, name: str) -> float:
        """The sum of all values of a metric."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))


@dataclass
class Site:
    """Everything behind a page, and its address."""

    url: str
    controller: str
    tiny: Worker
    babble: Worker
    page: Service
    log: Path

    def forget(self, worker: Worker) -> None:
        """Takes a worker that was killed off the list, where it would stay until its heartbeats have been missed."""
        httpx.post(f"{self.controller}/deregister_worker", json={"worker_name": worker.url}).raise_for_status()
        assert len(httpx.get(f"{self.controller}/v1/models").json()["data"]) == 2

    def lines(self, kind: str) -> list[dict]:
        """What the page's log says of one type."""
        text = "".join(file.read_text() for file in sorted(self.log.glob("*-conv.json")))
        return [line for line in map(json.loads, text.splitlines()) if line["type"] == kind]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    log = tmp_path_factory.mktemp("log")
    with ExitStack() as stack:
        controller = stack.enter_context(Service("-m", "llava.serve.controller", "--port", "0", **NO_SECRETS))
        address = controller.wait_for(r"Uvicorn running on (http://\S+)", timeout_s=240)[1]
        tiny = stack.enter_context(Worker(address))
        babble = stack.enter_context(Worker(address, *BABBLE))
        page = stack.enter_context(start_page(address, "--log-dir", str(log)))
        for worker in (tiny, babble):
            worker.wait_for("Uvicorn running on", timeout_s=240)
        yield Site(url_of(page), address, tiny, babble, page, log)


def start_page(controller: str, *more: str) -> Service:
    words = ("-m", "llava.serve.gradio_web_server", "--controller", controller, "--port", "0", *more)
    return Service(*words, **NO_SECRETS)


def url_of(page: Service) -> str:
    return page.wait_for(r"Uvicorn running on (http://\S+)", timeout_s=240)[1]


@pytest.fixture
def tab(browser, site: Site) -> Iterator[OpenedPage]:
    with OpenedPage(browser, site.url, "/?model=tiny") as opened:
        yield opened


def test_a_question_about_an_image_is_answered_with_its_figures_and_nothing_is_fetched_from_elsewhere(tab):
    tab.ask(QUESTION, [SNEAKER])
    tab.wait_for_answer()
    tab.seen("sneaker")
    tab.seen(r"\d+ \+ \d+ tokens")
    assert tab.elsewhere == []
    assert tab.faults == []


def test_a_second_question_may_bring_another_image(tab):
    tab.ask(QUESTION, [SNEAKER])
    tab.wait_for_answer()
    tab.ask("Is this a drawing or a photograph?", [SCENE])
    tab.wait_for_answer(2)
    assert tab.page.locator("#llava-chat img.llava-image").count() == 2
    tab.seen("drawing", tab.conversation)


def test_stop_ends_the_answer_at_the_engine_within_two_steps_and_keeps_what_was_written(tab, site):
    tab.choose_model("babble")
    stopped = site.babble.figure("llava:aborted_total")
    tab.ask("Go on and on.")
    tab.is_writing()
    tab.page.wait_for_timeout(500)
    tab.press("Stop")
    wait_until(lambda: site.babble.figure("llava:running") == 0)
    assert site.babble.figure("llava:aborted_total") == stopped + 1
    assert 1 <= site.babble.figure("llava:steps_after_cancel_most") <= 2
    tab.is_idle()
    assert len(tab.answer.inner_text().strip()) > 0
    tab.press("Regenerate")
    tab.is_writing()
    tab.press("Stop")
    tab.is_idle()


def test_closing_the_tab_ends_the_answer_at_the_engine_within_two_steps(browser, site):
    stopped = site.babble.figure("llava:aborted_total")
    with OpenedPage(browser, site.url, "/?model=babble") as opened:
        opened.ask("Go on and on.")
        opened.is_writing()
        wait_until(lambda: site.babble.figure("llava:running") == 1)
    wait_until(lambda: site.babble.figure("llava:running") == 0)
    assert site.babble.figure("llava:aborted_total") == stopped + 1
    assert 1 <= site.babble.figure("llava:steps_after_cancel_most") <= 2


def test_an_edited_question_is_asked_again_with_its_image(tab):
    tab.ask("What do you see?", [SNEAKER])
    tab.wait_for_answer()
    tab.page.get_by_label("Edit").first.click()
    area = tab.conversation.locator("textarea")
    area.fill("Is this a drawing or a photograph?")
    tab.page.get_by_label("Submit").first.click()
    tab.seen("photograph", tab.answer)
    tab.is_idle()
    assert tab.page.locator("#llava-chat img.llava-image").count() == 1
    assert "What do you see?" not in tab.conversation.inner_text()


def test_undo_takes_the_question_back_into_the_box(tab):
    tab.ask("What is it, then?", [SNEAKER])
    tab.wait_for_answer()
    tab.press("Undo")
    tab.page.wait_for_function("document.querySelector('#llava-box textarea').value === 'What is it, then?'")
    assert "What is it, then?" not in tab.conversation.inner_text()


def test_votes_are_stored_in_the_originals_fields(tab, site):
    tab.ask(QUESTION, [SNEAKER])
    tab.wait_for_answer()
    tab.press("Upvote")
    tab.seen("[Yy]our vote has been stored", tab.status)
    (line,) = site.lines("upvote")
    assert {"tstamp", "type", "model", "state", "ip"} <= set(line)
    assert line["model"] == "tiny"
    assert line["state"]["messages"][0] == ["user", QUESTION]
    chat = site.lines("chat")[-1]
    assert {"tstamp", "type", "model", "start", "finish", "state", "images", "ip"} <= set(chat)
    (kept,) = list(site.log.glob(f"serve_images/*/{chat['images'][0]}.*"))
    assert kept.read_bytes() == SNEAKER.read_bytes()


def test_a_conversation_is_saved_and_opened_again(tab, browser, site, tmp_path):
    tab.ask(QUESTION, [SNEAKER])
    tab.wait_for_answer()
    tab.page.get_by_text("Save or open a conversation").click()
    for button, name in (("Save as JSON", "talk.json"), ("Save as Markdown", "talk.md")):
        with tab.page.expect_download() as download:
            tab.press(button)
        download.value.save_as(tmp_path / name)
        with OpenedPage(browser, site.url, "/?model=tiny") as other:
            other.page.get_by_text("Save or open a conversation").click()
            other.page.set_input_files(".llava-settings input[type=file]", str(tmp_path / name))
            other.seen("sneaker")
            expect(other.page.locator("#llava-chat img.llava-image")).to_have_count(1)
            other.ask("Is this a drawing or a photograph?")
            other.seen("is .*photograph|a photograph", other.answer)


def test_a_reload_brings_the_conversation_back(tab):
    tab.ask(QUESTION, [SNEAKER])
    tab.wait_for_answer()
    tab.page.reload()
    tab.seen("sneaker")
    tab.press("Clear")
    tab.seen("ask about them")
    tab.page.reload()
    tab.wait_for_models()
    tab.seen("ask about them")


def test_two_tabs_have_conversations_of_their_own(browser, site):
    with OpenedPage(browser, site.url, "/?model=tiny") as one, OpenedPage(browser, site.url, "/?model=tiny") as two:
        one.ask("The first tab asks.", [SNEAKER])
        two.ask("The second tab asks.", [SCENE])
        one.wait_for_answer()
        two.wait_for_answer()
        assert "second tab" not in one.conversation.inner_text()
        assert "first tab" not in two.conversation.inner_text()


HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> <b>bold</b> [a](javascript:alert(3))"


def test_markup_in_a_question_is_shown_and_never_executed(tab):
    tab.ask(HOSTILE)
    tab.wait_for_answer()
    tab.seen(re.escape("<script>alert(1)</script>"))
    assert tab.faults == []
    assert tab.page.locator("#llava-chat a[href^=javascript]").count() == 0


def test_bad_input_gets_a_sentence_and_the_page_goes_on(tab, tmp_path):
    tab.ask("   ")
    tab.seen("message is empty", tab.status)

    (tmp_path / "note.jpg").write_text("I am a text, whatever my name says.")
    tab.ask("What is this?", [tmp_path / "note.jpg"])
    tab.seen(r"note\.jpg: not an image", tab.status)
    tab.page.reload()
    tab.wait_for_models()

    many = [tmp_path / f"{index}.png" for index in range(40)]
    for file in many:
        file.write_bytes(encoded(Image.new("RGB", (8, 8))))
    tab.ask("And these?", many)
    tab.seen("40 images; the limit is 16", tab.status)
    tab.page.reload()
    tab.wait_for_models()

    tab.ask("word " * 4000)
    tab.seen("tokens, but the model's context")
    tab.ask(QUESTION, [SNEAKER])
    tab.wait_for_answer(2)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tab, tmp_path):
    heavy = tmp_path / "heavy.bmp"
    heavy.write_bytes(encoded(noise(3600, 3600), "BMP"))
    tab.page.set_input_files("#llava-box input[type=file]", str(heavy))
    tab.seen("exceeds|too large|maximum", tab.page.locator("body"))


def test_a_model_that_is_not_served_is_said_and_another_one_chosen(browser, site):
    with OpenedPage(browser, site.url, "/?model=llava-9000") as opened:
        opened.seen("No model named 'llava-9000'", opened.page.locator("#llava-notice"))
        opened.seen("babble, tiny", opened.page.locator("#llava-notice"))


def test_a_worker_that_dies_in_the_middle_leaves_the_partial_answer_and_a_sentence(browser, site, photograph):
    with ExitStack() as stack:
        doomed = stack.enter_context(Worker(site.controller, *BABBLE[:-1], "doomed"))
        stack.callback(lambda: site.forget(doomed))
        opened = stack.enter_context(OpenedPage(browser, site.url))
        doomed.wait_for("Uvicorn running on", timeout_s=240)
        opened.page.reload()
        wait_until(lambda: "doomed" in httpx.get(f"{site.controller}/v1/models").text)
        opened.page.goto(f"{site.url}/?model=doomed")
        opened.wait_for_models()
        opened.ask("Go on and on.")
        opened.is_writing()
        wait_until(lambda: doomed.figure("llava:running") == 1)
        opened.page.wait_for_timeout(500)
        doomed.process.send_signal(signal.SIGKILL)
        opened.seen("worker .* (disconnected|went away|lost|cannot be reached)")
        opened.wait_for_answer()
        photograph(opened, "error")
        assert opened.button("Regenerate").is_enabled()
        opened.choose_model("babble")
        opened.press("Regenerate")
        opened.is_writing()
        opened.press("Stop")


@dataclass
class Lonely:
    """A page with a password, whose controller is not there yet."""

    page: Service
    url: str
    controller_port: int


@pytest.fixture(scope="module")
def lonely() -> Iterator[Lonely]:
    port = free_port()
    with start_page(f"http://localhost:{port}", "--auth", "ann:s3cret") as page:
        yield Lonely(page, url_of(page), port)


def test_who_has_no_password_sees_nothing(lonely):
    assert httpx.get(f"{lonely.url}/config").status_code == 401
    for password, status in (("wrong", 400), ("s3cret", 200)):
        form = {"username": "ann", "password": password}
        assert httpx.post(f"{lonely.url}/login", data=form).status_code == status
    assert "s3cret" not in lonely.page.output


def test_a_page_without_controller_says_how_to_start_one_and_notices_when_it_comes(browser, site, lonely):
    with OpenedPage(browser, lonely.url, login=("ann", "s3cret")) as opened:
        notice = opened.page.locator("#llava-notice")
        opened.seen("python -m llava.serve.controller", notice)
        opened.ask("Anybody there?")
        opened.seen("no model is being served", opened.status)
        port = str(lonely.controller_port)
        with Service("-m", "llava.serve.controller", "--port", port, **NO_SECRETS) as controller:
            controller.wait_for("Uvicorn running on", timeout_s=240)
            opened.seen("python -m llava.serve.model_worker", notice)
            # As llava.serve.register_worker does for one that runs already.
            worker = {"worker_name": site.tiny.url, "check_heart_beat": False}
            httpx.post(f"http://localhost:{port}/register_worker", json=worker).raise_for_status()
            opened.page.wait_for_function("document.querySelector('#llava-model input').value === 'tiny'")
            opened.ask(QUESTION, [SNEAKER])
            opened.wait_for_answer()
            opened.seen("sneaker")


def test_the_anonymous_arena_names_the_models_after_the_vote_and_keeps_it_in_fastchats_format(tab, site, photograph):
    tab.page.get_by_role("tab", name="Arena").click()
    tab.limit_arena_answers(24)
    arena = tab.page.get_by_role("tabpanel").locator("visible=true").first
    tab.ask(QUESTION, [SNEAKER], box="#llava-anonymous-box")
    expect(tab.button("A is better")).to_be_enabled(timeout=TIMEOUT_MS)
    assert "tiny" not in arena.inner_text()
    tab.press("A is better")
    tab.seen("[Yy]our vote has been stored", arena)
    tab.seen("Model A: (tiny|babble)", arena)
    photograph(tab, "arena")
    (line,) = site.lines("leftvote")
    assert line["models"] == ["", ""]
    assert {state["model_name"] for state in line["states"]} == {"tiny", "babble"}
    (battle,) = [battle for battle in read_votes([site.log]).battles if battle.vote is Vote.LEFT]
    assert battle.anonymous


def test_two_chosen_models_answer_side_by_side(tab, site):
    tab.page.get_by_role("tab", name="Side by side").click()
    tab.limit_arena_answers(24)
    tab.ask(QUESTION, [SNEAKER], box="#llava-named-box")
    expect(tab.button("Tie")).to_be_enabled(timeout=TIMEOUT_MS)
    tab.press("Tie")
    wait_until(lambda: len(site.lines("tievote")) == 1)
    assert sorted(site.lines("tievote")[0]["models"]) == ["babble", "tiny"]


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("desktop", 1280, False), ("dark", 1280, True), ("phone", 390, False), ("phone-dark", 390, True)],
)
def test_nothing_overflows_and_axe_finds_nothing_serious(browser, site, photograph, name, width, dark):
    with OpenedPage(browser, site.url, "/?model=tiny", width=width, dark=dark) as opened:
        opened.ask(QUESTION, [SNEAKER])
        opened.wait_for_answer()
        photograph(opened, name)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.violations() == []


def test_the_page_needs_no_torch_and_little_memory(site):
    process = psutil.Process(site.page.process.pid)
    assert not any("torch" in mapped.path for mapped in process.memory_maps())
    assert process.memory_info().rss < 250 * 2**20
