"""A real browser: the system's own Chromium, without a window; what a page does that it may not is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start it until the block ends; skips where there is none."""
    if PROGRAM is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that a container's root has not; the pages are ours.
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, and what it did that no page of ours does."""

    def __init__(self, browser: Browser, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.wrong: list[str] = []
        self.page.on("console", lambda said: self.wrong.append(f"{self.page.url}: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"{self.page.url}: {error}"))
        self.page.on("dialog", self._asks)
        self.page.on("request", lambda asked: self._asked(asked.url))

    def _asks(self, dialog: Dialog) -> None:
        self.wrong.append(f"{self.page.url}: a dialog")
        dialog.dismiss()

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:")):
            self.wrong.append(f"{self.page.url}: asked for {url}")

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Keep how the page looks, all of it or what a window shows."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(file), full_page=whole)
