"""Open the built site in a browser: `make docs-test`, after `make docs`.

What needs no browser, links and words for pictures, is looked at in the files themselves.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest

BUILT = Path(__file__).resolve().parents[1] / "build" / "site"
PAGES = sorted(page.relative_to(BUILT).as_posix() for page in BUILT.rglob("*.html"))
WIDTHS = (400, 1400)
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")

if not PAGES:
    pytest.skip(f"nothing is built in {BUILT}: run `make docs`", allow_module_level=True)


class Seen(HTMLParser):
    """What a page refers to, and what in it may be referred to."""

    def __init__(self, page: str) -> None:
        """Read a page of the site."""
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.anchors: set[str] = set()
        self.feed((BUILT / page).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links, pictures and anchors."""
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "img":
            self.pictures.append(given)
        self.links += [link for link in (given.get("href"), given.get("src")) if link]


@functools.cache
def seen(page: str) -> Seen:
    """Read a page once."""
    return Seen(page)


def broken(page: str, links: list[str]) -> list[str]:
    """Return the links of a page that lead nowhere on the site."""
    found = []
    for link in links:
        if urlparse(link).scheme in ("http", "https", "mailto", "data"):
            continue
        path, anchor = urldefrag(link)
        target = (BUILT / page).parent / unquote(path).partition("?")[0] if path else BUILT / page
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file():
            found.append(link)
        elif anchor and target.suffix == ".html":
            inside = seen(target.resolve().relative_to(BUILT).as_posix()).anchors
            found += [link] if unquote(anchor) not in inside else []
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every file and every anchor that a page refers to is there; nothing is taken from elsewhere to show it."""
    assert not broken(page, seen(page).links)


def test_a_broken_link_is_seen() -> None:
    """The check fails on a file and on an anchor that are not there."""
    there = "docs/index.html"
    assert broken(there, ["start.html", "nowhere.html", "#nowhere", "theorem.html#nowhere"]) == [
        "nowhere.html", "#nowhere", "theorem.html#nowhere"
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_pictures_have_words_and_sizes(page: str) -> None:
    """Every picture has an alternative text of some words, and its size, so that nothing jumps when it comes."""
    for picture in seen(page).pictures:
        assert len((picture.get("alt") or "").split()) > 2, picture
        assert picture.get("width"), picture
        assert picture.get("height"), picture


EXAMPLES = [page for page in PAGES if page.startswith("examples/") and page != "examples/README.html"]


def amiss(notebook: dict[str, Any]) -> list[str]:
    """Return what is wrong with an executed example: a cell that has not run, a warning, an error, no one picture."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return [
        *("a cell that has not run" for cell in cells if cell["execution_count"] is None),
        *("".join(output["text"]) for output in outputs if output.get("name") == "stderr"),
        *(output["evalue"] for output in outputs if output["output_type"] == "error"),
        *([] if cells and pictures == 1 else [f"{pictures} pictures"]),
    ]


def test_every_example_is_a_page() -> None:
    """All of the gallery are there."""
    scripts = {path.stem for path in (BUILT.parents[1] / "examples").glob("*.py")}
    assert {Path(page).stem for page in EXAMPLES} == scripts - {"gallery", "many_processes"}


@pytest.mark.parametrize("page", EXAMPLES)
def test_an_example_has_run_and_can_be_taken_home(page: str) -> None:
    """It offers its script and its notebook, which ran to its end, where it asserts its claims, and drew a picture."""
    name = Path(page).stem
    assert {f"{name}.py", f"{name}.ipynb"} <= set(seen(page).links)
    notebook = json.loads((BUILT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert not amiss(notebook)
    assert "assert " in "".join(notebook["cells"][-1]["source"])


def test_what_is_amiss_is_seen() -> None:
    """The check of notebooks fails on each fault that an example may have."""
    picture = {"output_type": "display_data", "data": {"image/png": ""}}
    cell = {"cell_type": "code", "execution_count": 1, "outputs": [picture]}
    warned = {"output_type": "stream", "name": "stderr", "text": ["DeprecationWarning: planted"]}
    failed = {"output_type": "error", "evalue": "planted"}
    assert not amiss({"cells": [cell]})
    for fault in (
        {"execution_count": None}, {"outputs": [picture, warned]}, {"outputs": [picture, failed]},
        {"outputs": []}, {"outputs": [picture, picture]},
    ):  # fmt: skip
        assert len(amiss({"cells": [{**cell, **fault}]})) == 1


# ---- in a browser ----


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the site, as a host would."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(BUILT))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: `make docs` does")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def shown(browser: Any, width: int, scheme: str) -> None:
    """Show pages so wide, to a reader who prefers light or dark."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


BRIGHTNESS = """
const rgb = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number);
return rgb.reduce((a, b) => a + b) / 3;
"""
SIDEWAYS = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNLOADED = """
return [...document.images].filter(i => { i.loading = "eager"; return i.complete && !i.naturalWidth }).map(i => i.src)
"""


@pytest.mark.parametrize("page", PAGES)
def test_page_in_a_browser(page: str, browser: Any, address: str) -> None:
    """It loads without a word on the console, light and dark, and never scrolls sideways."""
    browser.get(f"{address}/{page}")
    assert browser.title
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            shown(browser, width, scheme)
            assert browser.execute_script(SIDEWAYS) <= 0, (width, scheme)
        assert (browser.execute_script(BRIGHTNESS) > 128) == (scheme == "light")
    assert not browser.execute_script(UNLOADED)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_what_is_too_wide_is_seen(browser: Any, address: str) -> None:
    """The check of widths fails on a page with a plank in it, and that of the console on an error."""
    browser.get(f"{address}/docs/index.html")
    shown(browser, WIDTHS[0], "light")
    browser.execute_script('document.body.innerHTML += "<div style=\\"width: 2000px\\">plank</div>"')
    assert browser.execute_script(SIDEWAYS) > 0
    browser.get_log("browser")
    browser.execute_script('console.error("planted")')
    assert len(browser.get_log("browser")) == 1


@pytest.mark.parametrize(("words", "wanted"), [("EM.fit", "EM.fit"), ("missing", "Missing data")])
def test_search(words: str, wanted: str, browser: Any, address: str) -> None:
    """The site's own search finds a method by its name, and a page by its title."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}/search.html?q={words}")

    def results(b: Any) -> list[str]:
        return [link.text for link in b.find_elements(By.CSS_SELECTOR, "#search-results li a")]

    # Results are shown one after another. A link that is redrawn meanwhile is looked for again.
    wait = WebDriverWait(browser, 30, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda b: any(wanted in text for text in results(b)), f"the search for {words} does not find {wanted}")
