"""Pictures of the page, of a server that runs: python docs/screenshots.py http://127.0.0.1:8080

Needs Chromium on the PATH and Playwright (extra dev). The server serves a run of text whose training text has
an index, with an adapter; the pictures go to docs/pictures/.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "pictures"
OPTIONS = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run".split()
PATIENCE = 40_000.0  # milliseconds
SIZE: Any = {"width": 1120, "height": 640}
BEGINNING = "def "
PASSAGES = (
    "If the optional argument is omitted or None, a new iterator is returned. Changed in version 3.7: the "
    "function is now a built-in. It raises an exception if the dictionary is empty, as can be seen in the "
    "following example."
)


def main(address: str) -> None:
    """Write the pictures."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        light = browser.new_context(viewport=SIZE, color_scheme="light")
        light.set_default_timeout(PATIENCE)
        page = light.new_page()
        page.goto(address)
        _write(page)
        page.goto(f"{address}#origin")
        page.get_by_label("Text to look for").fill(PASSAGES)
        page.get_by_role("button", name="Find its passages").click()
        page.locator(".documents blockquote").first.wait_for()
        _keep(page, "page-origin")
        page.goto(f"{address}#runs")
        page.locator(".chart svg").first.wait_for()
        for box in page.get_by_role("checkbox").all():
            box.check()
        page.get_by_role("img", name="Loss by step").first.wait_for()
        _keep(page, "page-runs")
        dark = browser.new_context(
            viewport=SIZE, color_scheme="dark", storage_state=light.storage_state()
        )
        dark.set_default_timeout(PATIENCE)
        page = dark.new_page()
        page.goto(f"{address}#write")
        page.locator(".conversations .title").first.click()
        page.locator(".token").nth(30).hover()
        page.locator(".card").wait_for()
        _keep(page, "page-write-dark")
        browser.close()


def _write(page: Any) -> None:
    """A completion, with the card of one of its tokens."""
    page.get_by_label("Kind of conversation").select_option("completion")
    page.get_by_label("Seed").fill("3")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("Most tokens").fill("120")
    page.get_by_label("Message", exact=True).fill(BEGINNING)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Regenerate").wait_for()
    page.locator(".token").nth(30).hover()
    page.locator(".card").wait_for()
    _keep(page, "page-write")


def _keep(page: Any, name: str) -> None:
    page.screenshot(path=FOLDER / f"{name}.png")
    print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
