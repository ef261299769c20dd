"""A person's screen: Dagster in a real Chromium, where no page may fail, and pictures of it for whoever asks."""

import contextlib
import os
import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOCATION = "orchestration.definitions"

_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_DEADLINE_MS = 90_000


@contextlib.contextmanager
def opened(mill):
    """Open a browser of its own on the mill's Dagster."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_ARGUMENTS])
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 950})
            page.set_default_timeout(_DEADLINE_MS)
            yield Screen(page, f"http://127.0.0.1:{mill.dagster}")
        finally:
            browser.close()


class Screen:
    """One page of a browser; ``failures`` are the errors that its scripts did not catch."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.failures = []
        page.on("pageerror", lambda error: self.failures.append(str(error)))

    def open(self, path):
        self.page.goto(self.address + path)

    def see(self, *texts):
        """Wait until each text is there, exactly so."""
        for text in texts:
            self.page.get_by_text(text, exact=True).first.wait_for()

    def press(self, name):
        self.page.get_by_role("button", name=name).first.click()

    def look(self, picture=""):
        """Find no error on the page; keep a picture where TIDEMILL_SCREENSHOTS names a directory."""
        text = self.page.inner_text("body")
        assert "Failed to load" not in text
        assert "PythonError" not in text
        if picture and (kept := os.environ.get("TIDEMILL_SCREENSHOTS")):
            self.page.wait_for_timeout(1_500)  # animations end; nothing is asserted of what they show
            self.page.screenshot(path=Path(kept) / f"{picture}.png")
