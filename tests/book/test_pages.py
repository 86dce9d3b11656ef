"""The built HTML in a real browser, wide and phone-sized, light and dark, served without network.

Needs `make book` and Chromium or Chrome. Skipped with the reason where one is missing; `make pages` and continuous
integration set REGNET_REQUIRE_PAGES=1, and it fails instead.
"""

from __future__ import annotations

import functools
import http.server
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import listed_pages
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
PAGES = [*listed_pages(), "genindex.html", "search.html"]


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    """The book on a port of this machine."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(built))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(built: Path, chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@dataclass
class Visit:
    """What one page showed: first wide and light, then dark, then on a phone."""

    name: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    untypeset: list[str] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    violations: dict[str, list[str]] = field(default_factory=dict)
    faded: dict[str, float] = field(default_factory=dict)


# Formulas without a typeset twin, errors of MathJax, and dollar signs or backslashes that are still there to be read.
UNTYPESET = r"""() => {
    const bare = [...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'));
    const wrong = [...document.querySelectorAll('mjx-merror, [data-mjx-error]')];
    const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    const raw = [];
    while (walker.nextNode()) {
        const node = walker.currentNode;
        if (node.parentElement.closest('pre, code, script, style, mjx-container')) continue;
        if (/\$[^$]+\$|\\\(|\\\[|\\(frac|mathrm|tau|sigma)\b/.test(node.data)) raw.push(node.data.trim());
    }
    return [...bare.map(e => e.textContent), ...wrong.map(e => e.textContent), ...raw].map(s => s.slice(0, 120));
}"""

PICTURES = """() => [...document.querySelectorAll('img')].map(e => ({
    source: e.getAttribute('src'), alt: e.getAttribute('alt'), loaded: e.complete && e.naturalWidth > 0,
    content: e.closest('article') !== null }))"""

# What sticks out to the right of the window and is not in a box of its own that scrolls.
OVERFLOW = """() => {
    if (document.documentElement.scrollWidth <= window.innerWidth) return [];
    const scrolls = e => ['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX);
    const boxed = e => e && e.tagName !== 'MAIN' && (scrolls(e) || boxed(e.parentElement));
    return [...document.querySelectorAll('main *')]
        .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 && !boxed(e.parentElement))
        .map(e => `${e.tagName.toLowerCase()}.${e.className}: ${e.textContent.trim().slice(0, 60)}`)
        .concat(['the page itself']).slice(0, 8);
}"""


def open_page(page: Page, url: str) -> None:
    page.goto(url, wait_until="load")
    page.wait_for_function("() => !window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise; await document.fonts.ready; }")
    # Pictures load when they are scrolled to.
    page.evaluate("""async () => { for (const e of document.images) e.loading = 'eager';
        await Promise.all([...document.images].map(e => e.decode().catch(() => null))); }""")


def violations(page: Page, *, colors: bool) -> list[str]:
    """What axe-core calls serious or critical: of the colours, which depend on the mode, or of all the rest."""
    rules = {"runOnly": ["color-contrast"]} if colors else {"rules": {"color-contrast": {"enabled": False}}}
    # The colours of a formula are those of the text around it; looking at every glyph takes minutes.
    context = {"exclude": [["mjx-container"]]} if colors else None
    options = {"resultTypes": ["violations"], "preload": False, **rules}  # preloading asks for style sheets once more
    found = Axe().run(page, context, options).response["violations"]
    return [
        f"{each['id']} ({each['impact']}, {len(each['nodes'])} places): {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def stands_out(picture: bytes) -> np.ndarray:
    """The pixels whose contrast with the background is at least 3, as the accessibility guidelines ask of graphics."""
    levels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722]) + 0.05
    background = np.median(luminance)
    return np.maximum(luminance, background) / np.minimum(luminance, background) >= 3


@pytest.fixture(scope="module", params=PAGES)
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    seen = Visit(request.param)
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    page = context.new_page()
    page.on("console", lambda said: seen.errors.append(f"{said.location}: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("requestfailed", lambda failed: seen.errors.append(f"{failed.url}: {failed.failure}"))
    page.on("request", lambda asked: seen.requests.append(asked.url))
    open_page(page, address + seen.name)
    seen.untypeset = page.evaluate(UNTYPESET)
    seen.pictures = page.evaluate(PICTURES)
    seen.violations["wide"] = violations(page, colors=False)
    seen.violations["light"] = violations(page, colors=True)
    figures = {str(each.get_attribute("src")): each for each in page.locator("article img").all()}
    light = {source: stands_out(figure.screenshot()) for source, figure in figures.items()}
    page.add_style_tag(content="* { transition: none !important }")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    seen.violations["dark"] = violations(page, colors=True)
    for source, figure in figures.items():
        assert light[source].mean() > 0.002, f"{source} is blank"
        seen.faded[source] = 1 - stands_out(figure.screenshot()).mean() / light[source].mean()
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="light")
    open_page(page, address + seen.name)
    seen.overflow = page.evaluate(OVERFLOW)
    seen.violations["phone"] = violations(page, colors=False)
    page.set_viewport_size({"width": 320, "height": 640})
    seen.overflow += page.evaluate(OVERFLOW)
    yield seen
    context.close()


def test_no_error_on_the_console(visit: Visit) -> None:
    assert not visit.errors


def test_no_request_to_another_host(visit: Visit, address: str) -> None:
    assert visit.requests
    assert not [url for url in visit.requests if not url.startswith((address, "data:", "blob:"))]


def test_all_mathematics_is_typeset(visit: Visit) -> None:
    assert not visit.untypeset


def test_every_picture_is_loaded_and_has_alternative_text(visit: Visit) -> None:
    assert not [picture for picture in visit.pictures if not picture["loaded"] or picture["alt"] is None]
    assert not [picture for picture in visit.pictures if picture["content"] and len(picture["alt"]) <= 20]


def test_nothing_sticks_out_on_a_phone(visit: Visit) -> None:
    assert not visit.overflow


def test_every_figure_is_as_legible_in_dark_mode(visit: Visit) -> None:
    assert len(visit.faded) == sum(picture["content"] for picture in visit.pictures)
    assert not {source: share for source, share in visit.faded.items() if share > 0.05}


def test_no_serious_barrier_for_readers_with_disabilities(visit: Visit) -> None:
    assert not any(visit.violations.values()), visit.violations


def test_the_address_alone_leads_to_the_landing_page(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.wait_for_url(f"{address}book/index.html")
    page.close()


@pytest.mark.parametrize(("ink", "seen"), [(0, True), (118, True), (148, True), (149, False), (255, False)])
def test_what_stands_out_has_a_contrast_of_three(ink: int, seen: bool) -> None:
    picture = Image.new("L", (100, 100), 255)
    picture.paste(ink, (0, 0, 100, 20))
    file = io.BytesIO()
    picture.save(file, "png")
    assert stands_out(file.getvalue())[:20].all() == seen
    assert not stands_out(file.getvalue())[20:].any()


@pytest.mark.parametrize(("word", "title"), [("secant", "secant weight"), ("tau", "Notation")])
def test_the_search_finds(browser: Browser, address: str, word: str, title: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}search.html?q={word}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("() => /found|Found|finished/.test(document.querySelector('#search-results').textContent)")
    results = page.locator("#search-results li a").all_inner_texts()
    assert any(title in result for result in results), results
    page.close()


@pytest.mark.parametrize(
    ("page_name", "link", "expected"),
    [
        ("book/index.html", "[href$='#eq-1']", "mjx-container"),
        ("book/index.html", "[href$='#term-regulator']", "dl > dt"),
        ("book/index.html", "[href$='#fig-index-answer']", "figure img"),
        ("book/index.html", "[href*='10_references.html#']", "div.citation"),
        ("book/04_directional_sensitivity.html", "[href$='#regnet.sensitivities']", "dl > dt"),
    ],
)
def test_a_link_shows_what_it_leads_to(browser: Browser, address: str, page_name: str, link: str, expected: str) -> None:
    page = browser.new_page(viewport=WIDE)
    open_page(page, address + page_name)
    page.locator(f"article a.reference{link}").first.hover()
    page.wait_for_selector(f".link-preview:not([hidden]) {expected}", timeout=10_000)
    page.keyboard.press("Escape")
    page.wait_for_selector(".link-preview", state="hidden")
    page.close()
