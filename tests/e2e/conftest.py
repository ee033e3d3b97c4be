"""What tests with a browser share: one browser, since its driver keeps an event loop that allows no second one."""

from __future__ import annotations

import pytest

from tests.support.browser import chromium


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()
