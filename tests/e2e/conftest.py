"""The browser that all tests of the page share, and where they leave images of what they saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.browser import OpenedPage, absent, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """The one place that looks for Chromium."""
    program = chromium()
    if program is None:
        absent("Chromium", "Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def photograph(request: pytest.FixtureRequest) -> Callable[[OpenedPage, str], None]:
    """Keeps what a page looks like now as web-NAME.png in the folder of --screenshots, if there is one."""
    folder = request.config.getoption("--screenshots")

    def take(opened: OpenedPage, name: str) -> None:
        if folder is not None:
            opened.page.mouse.move(0, 0)
            opened.page.evaluate("scrollTo(0, 0)")
            opened.page.screenshot(path=Path(folder) / f"web-{name}.png", animations="disabled")

    return take
