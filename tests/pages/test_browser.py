"""The page of `trustee ui` in a real browser. Left out where there is no Chromium or playwright."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
import uvicorn

from run_folders import HOSTILE, make_run, make_step, write_lines
from trustee.endpoint.listening import Server, bind
from trustee.pages.server import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
try:
    import playwright.sync_api as automation
except ImportError:
    automation = None  # type: ignore[assignment]

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt install chromium"),
    pytest.mark.skipif(automation is None, reason="playwright is not installed: extra dev"),
]
DEADLINE_MS = 20_000
SIZES = ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium once."""
    with automation.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve the runs of a folder from a thread."""
    listening = bind("127.0.0.1", 0, first=0)
    closing = anyio.Event()
    app = make_app([tmp_path], closing=closing)
    server = Server(
        uvicorn.Config(
            app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1
        ),
        closing=closing,
    )
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)
    listening.close()
    assert not thread.is_alive()


class Visit:
    """A page with all that its console said."""

    def __init__(
        self, browser: Browser, address: str, *, width: int = 1280, scheme: str = "light"
    ) -> None:
        self.address = address
        self.said: list[str] = []
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.page: Page = context.new_page()
        self.page.set_default_timeout(DEADLINE_MS)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        # A view that is left drops the requests that it still waits for.
        self.page.on(
            "requestfailed",
            lambda request: (
                None if request.failure == "net::ERR_ABORTED" else self.said.append(request.url)
            ),
        )

    def open(self, place: str) -> Page:
        """Open a place of the page and wait until it is drawn."""
        # From an empty page, so that the heading of the view before is not taken for this one's.
        self.page.goto("about:blank")
        self.page.goto(self.address + place)
        self.page.wait_for_selector("h1")
        return self.page

    def check(self) -> None:
        """Nothing was said on the console, nothing sticks out, nobody changed the title."""
        assert [] == self.said
        assert 0 >= self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert "owned" not in self.page.title()
        self.page.context.close()


def run_ids(page: Page) -> dict[str, str]:
    """Return the ids of the runs by name."""
    page.wait_for_selector("table.runs tbody tr")
    return {
        str(link.inner_text()): str(link.get_attribute("href")).rpartition("/")[2]
        for link in page.query_selector_all(".what a")
    }


VIEWS = (
    "#/run/{a}",
    "#/run/{a}/episodes/episodes",
    "#/run/{a}/episodes/after",
    "#/run/{a}/episode/episodes/4",
    "#/run/{a}/group/episodes/1",
    "#/run/{a}/held-out",
    "#/run/{a}/settings",
    "#/compare?run={a}&run={b}",
)


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_every_view_opens_without_a_word_on_the_console(
    browser: Browser, address: str, tmp_path: Path, width: int, scheme: str
) -> None:
    """In both schemes and widths, with texts that want to be markup; nothing is cut off."""
    make_run(tmp_path / "one", text=HOSTILE)
    make_run(tmp_path / "two", lr=0.1)
    visit = Visit(browser, address, width=width, scheme=scheme)
    ids = run_ids(visit.open("#/"))
    for view in VIEWS:
        page = visit.open(view.format(a=ids["one"], b=ids["two"]))
        page.wait_for_load_state("load")
        assert "cannot be shown" not in page.inner_text("main"), view
        assert 0 == page.locator("main img, main script, main iframe, main svg[onload]").count(), (
            view
        )
        assert 0 >= page.evaluate("document.documentElement.scrollWidth - innerWidth"), view
        assert page.evaluate(
            "[...document.querySelectorAll('.tabs a, .keys th, .keys td, .interval .who')].every("
            "(part) => part.scrollWidth <= part.clientWidth"
            " && part.getBoundingClientRect().right <= innerWidth)"
        ), view
    visit.check()


def test_hostile_texts_are_read_as_they_were_written(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    """Every letter is shown, as text, and as tokens on demand."""
    make_run(tmp_path / "one", text=HOSTILE)
    visit = Visit(browser, address)
    ids = run_ids(visit.open("#/"))
    page = visit.open(f"#/run/{ids['one']}/episode/episodes/0")
    page.wait_for_selector(".bubble.assistant p.text")
    assert HOSTILE in [
        text.strip() for text in page.locator(".bubble.assistant p.text").all_text_contents()
    ]
    page.click("text=Shade by probability")
    page.wait_for_selector(".token")
    visit.check()


def test_a_run_is_followed_while_it_goes_on(browser: Browser, address: str, tmp_path: Path) -> None:
    """New steps appear by themselves."""
    folder = make_run(tmp_path / "one")
    visit = Visit(browser, address)
    ids = run_ids(visit.open("#/"))
    page = visit.open(f"#/run/{ids['one']}")
    tile = page.locator(".tile", has_text="Difficulty")
    automation.expect(tile).to_contain_text("45")
    write_lines(folder / "metrics.jsonl", [make_step(6), make_step(7)])
    automation.expect(tile).to_contain_text("47", timeout=DEADLINE_MS)
    visit.check()


def test_filters_paging_and_keys_lead_to_an_episode(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    """A reader finds one episode among many and goes on to the next."""
    make_run(tmp_path / "one", groups=40)
    visit = Visit(browser, address)
    ids = run_ids(visit.open("#/"))
    page = visit.open(f"#/run/{ids['one']}/episodes/episodes")
    automation.expect(page.locator(".state")).to_have_text("120 episodes")
    assert 50 == page.locator("table.episodes tbody tr").count()
    page.click("[data-key=next]")
    automation.expect(page.locator(".pages")).to_contain_text("51 to 100 of 120")
    page.select_option("select[name=reward]", ">0")
    automation.expect(page.locator(".state")).to_have_text("40 of 120 episodes")
    page.fill("input[name=group]", "7")
    page.press("input[name=group]", "Enter")
    automation.expect(page.locator(".state")).to_have_text("1 of 120 episodes")
    page.click("table.episodes tbody tr td a")
    automation.expect(page.locator("h1")).to_contain_text("Episode 7/0")
    page.keyboard.press("ArrowRight")
    automation.expect(page.locator("h1")).to_contain_text("Episode 7/1")
    visit.check()


@pytest.mark.slow
def test_the_first_paint_of_many_episodes_comes_soon(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    """The table shows its first rows while the rest of 100,000 episodes is still read."""
    folder = make_run(tmp_path / "one", groups=3)
    block = (folder / "episodes.jsonl").read_bytes()
    with (folder / "episodes.jsonl").open("ab") as file:
        for _ in range(11_111):
            file.write(block)
    visit = Visit(browser, address)
    ids = run_ids(visit.open("#/"))
    began = time.monotonic()
    page = visit.open(f"#/run/{ids['one']}/episodes/episodes")
    page.wait_for_selector("table.episodes tbody tr td a")
    assert 5 > time.monotonic() - began
    automation.expect(page.locator(".state")).to_contain_text("100,008", timeout=90_000)
    visit.check()
