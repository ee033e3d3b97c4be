"""Drives the web page in Debian's Chromium, as a user would."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.serving import PATIENCE

TIMEOUT_MS = 45_000 * PATIENCE
_AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"


def absent(what: str, remedy: str) -> NoReturn:
    """Ends a test that lacks a program: a user's is skipped, one in CI fails."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {what} here ({remedy})")


def chromium() -> str | None:
    """Where the browser is, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("LLAVA_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe-core holds against a page, serious and critical only."""
    if not _AXE.exists():
        absent("axe-core", "npm install --no-save axe-core@4.14.1")
    page.evaluate(f"{_AXE.read_text(encoding='utf-8')};0")  # not as an element, which a page's policy may forbid
    found = page.evaluate("() => axe.run()")["violations"]
    return [
        {"id": rule["id"], "impact": rule["impact"], "nodes": [node["html"][:200] for node in rule["nodes"]]}
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


class OpenedPage:
    """One tab with the page. Notes whatever it asks of other hosts, and what its console says is wrong."""

    def __init__(
        self,
        browser: Browser,
        address: str,
        path: str = "/",
        *,
        width: int = 1280,
        dark: bool = False,
        login: tuple[str, str] | None = None,
    ):
        self._context = browser.new_context(
            viewport={"width": width, "height": 860 if width > 600 else 844},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        self._context.set_default_timeout(TIMEOUT_MS)
        self.elsewhere: list[str] = []
        self.faults: list[str] = []
        self.page: Page = self._context.new_page()
        self.page.on("request", lambda request: self._note(request.url, address))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}") or dialog.dismiss())
        if login is not None:
            user, password = login
            self._context.request.post(f"{address}/login", form={"username": user, "password": password})
        self.page.goto(address + path)
        self.wait_for_models()

    def wait_for_models(self) -> None:
        """Until the first list of models, or the notice in its place, is there."""
        ready = self.page.locator("#llava-model input").or_(self.page.locator("#llava-notice"))
        expect(ready.first).to_be_visible(timeout=TIMEOUT_MS)
        self.page.wait_for_function(
            "() => document.querySelector('#llava-model input')?.value || document.querySelector('#llava-notice')",
            timeout=TIMEOUT_MS,
        )

    def _note(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.elsewhere.append(url)

    # What a user does

    def choose_model(self, name: str) -> None:
        field = self.page.locator("#llava-model input")
        field.click()
        self.page.get_by_role("option", name=name, exact=True).click()
        expect(field).to_have_value(name)

    def ask(self, text: str, images: Sequence[Path] = (), *, box: str = "#llava-box") -> None:
        if images:
            self.page.set_input_files(f"{box} input[type=file]", [str(image) for image in images])
            expect(self.page.locator(f"{box} .thumbnail-item")).to_have_count(len(images), timeout=TIMEOUT_MS)
        area = self.page.locator(f"{box} textarea")
        area.fill(text)
        area.press("Enter")

    def limit_arena_answers(self, num_tokens: int) -> None:
        """Sets the arena's own "Max output tokens"."""
        for name in ("Settings", "Parameters"):
            self.page.locator("button:visible", has_text=name).click()
        field = self.page.locator("input[type=number]:visible").last
        field.fill(str(num_tokens))
        field.press("Tab")
        self.page.locator("button:visible", has_text="Settings").click()

    def press(self, name: str) -> None:
        self.button(name).click()

    # What a user sees

    def button(self, name: str) -> Locator:
        """One with these words on it; the chatbot's own have images."""
        return self.page.locator("button:visible", has_text=re.compile(rf"^\s*{name}\s*$"))

    @property
    def answer(self) -> Locator:
        """The text of the last answer; figures and errors are components beside it."""
        return self.page.locator("#llava-chat .message.bot:not(.component)").last

    @property
    def conversation(self) -> Locator:
        return self.page.locator("#llava-chat")

    @property
    def status(self) -> Locator:
        """The line under the chat."""
        return self.page.locator("#llava-status")

    def wait_for_answer(self, number: int = 1) -> None:
        """Until so many answers have ended by themselves, well or not, and nothing is written any more."""
        expect(self.conversation.locator(".llava-statistics, .llava-error")).to_have_count(number, timeout=TIMEOUT_MS)
        self.is_idle()

    def is_idle(self) -> None:
        expect(self.button("Regenerate")).to_be_enabled(timeout=TIMEOUT_MS)
        expect(self.button("Stop")).to_have_count(0, timeout=TIMEOUT_MS)

    def is_writing(self) -> None:
        expect(self.button("Stop")).to_be_visible(timeout=TIMEOUT_MS)

    def seen(self, pattern: str, where: Locator | None = None) -> None:
        expect(where or self.conversation).to_contain_text(re.compile(pattern, re.IGNORECASE), timeout=TIMEOUT_MS)

    def violations(self) -> list[dict[str, Any]]:
        return violations(self.page)

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> OpenedPage:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
