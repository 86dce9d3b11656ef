"""The built HTML in a real browser, wide and phone-sized, light, dark and printed, served without network.

Needs `make book` and Chromium or Chrome. Skipped with the reason where one is missing; `make pages` and continuous
integration set REGNET_REQUIRE_PAGES=1, and it fails instead.
"""

from __future__ import annotations

import functools
import http.server
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import listed_files
from playwright.sync_api import Browser, Page, expect, sync_playwright

QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
WIDE, TABLET, PHONE = {"width": 1400, "height": 900}, {"width": 1100, "height": 900}, {"width": 390, "height": 844}
PAGES = [*(str(Path(file).with_suffix(".html")) for file in listed_files()), "genindex.html", "search.html"]
CHAPTER, CLAIMS = "book/05_finite_differences.html", "book/claims.html"


@pytest.fixture(scope="session")
def address(built: Path) -> Iterator[str]:
    """The book on a port of this machine."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(built))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser(built: Path, chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport=WIDE, color_scheme="light") as context:
        yield context.new_page()


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

# Pictures that are not shown, or not described: at length in the text, at all around it.
PICTURES = """() => [...document.images].filter(e => !e.naturalWidth || e.getAttribute('alt') === null
    || e.closest('article') && e.alt.length <= 20).map(e => e.getAttribute('src'))"""

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

# Printed cells that take room but show neither a picture nor text that can be seen, and folds that stay closed.
PRINTED = """() => {
    window.dispatchEvent(new Event('beforeprint'));
    const shown = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const boxes = [...document.querySelectorAll('div.cell, div.cell > *, div.cell details > *')];
    const empty = boxes.filter(box => box.offsetHeight > 0 && ![box, ...box.querySelectorAll('img, pre, table, p')]
        .some(e => shown(e) && (e.tagName === 'IMG' || e.innerText.trim())));
    const closed = document.querySelectorAll('div.cell details:not([open])');
    window.dispatchEvent(new Event('afterprint'));
    return [...empty, ...closed].map(e => e.textContent.trim().slice(0, 60));
}"""


def open_page(page: Page, url: str) -> None:
    page.goto(url, wait_until="load")
    page.wait_for_function("() => !window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise; await document.fonts.ready; }")
    # Pictures load when they are scrolled to.
    page.evaluate("""async () => { for (const e of document.images) e.loading = 'eager';
        await Promise.all([...document.images].map(e => e.decode().catch(() => null))); }""")


# The glyphs of formulas and the words of code, which axe-core looks at for minutes; one block of code shows its colours.
THIN_OUT = """() => {
    const code = [...document.querySelectorAll('.highlight pre')].slice(1);
    for (const part of [...document.querySelectorAll('mjx-container'), ...code]) part.remove();
}"""


def barriers(page: Page, *only: str) -> list[str]:
    """What axe-core calls serious or critical, of some rules or of all."""
    options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": only} if only else {})
    return [
        f"{each['id']} ({len(each['nodes'])} places): {each['nodes'][0]['html'][:200]}"
        for each in Axe().run(page, options=options).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_on_every_screen_and_on_paper(page: Page, address: str, name: str) -> None:
    """All that is looked at in one visit, because loading and typesetting a page is what takes the time."""
    wrong: dict[str, list[str]] = {"errors on the console": [], "requests to other hosts": []}
    page.on("console", lambda said: wrong["errors on the console"].append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong["errors on the console"].append(str(error)))
    page.on("requestfailed", lambda failed: wrong["errors on the console"].append(f"{failed.url}: {failed.failure}"))
    page.on("request", lambda asked: wrong["requests to other hosts"].append(asked.url))
    open_page(page, address + name)
    wrong["formulas that are not typeset"] = page.evaluate(UNTYPESET)
    wrong["pictures not shown or not described"] = page.evaluate(PICTURES)
    page.emulate_media(media="print")
    wrong["empty or folded cells on paper"] = page.evaluate(PRINTED)
    page.emulate_media(media="screen")
    page.evaluate(THIN_OUT)
    wrong["barriers"] = barriers(page)
    page.emulate_media(color_scheme="dark")
    page.add_style_tag(content="* { transition: none !important }")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    wrong["barriers in the dark"] = barriers(page, "color-contrast")
    page.set_viewport_size(PHONE)
    open_page(page, address + name)
    wrong["too wide for a phone"] = page.evaluate(OVERFLOW)
    wrong["barriers on a phone"] = barriers(page, "scrollable-region-focusable")
    page.set_viewport_size({"width": 320, "height": 640})
    wrong["too wide for a small phone"] = page.evaluate(OVERFLOW)
    assert wrong["requests to other hosts"], "the requests were not seen"
    wrong["requests to other hosts"] = [
        url for url in wrong["requests to other hosts"] if not url.startswith((address, "data:", "blob:"))
    ]
    assert not {what: found for what, found in wrong.items() if found}


@pytest.mark.parametrize("size", [WIDE, TABLET, PHONE], ids=["wide", "tablet", "phone"])
def test_the_menu_opens_closes_and_leads_to_another_chapter(page: Page, address: str, size: Any) -> None:
    page.set_viewport_size(size)
    open_page(page, address + CHAPTER)
    menu, button = page.locator(".bd-sidebar-primary"), page.locator(".primary-toggle:visible")
    beside = size is not PHONE  # on a phone the menu lies over the page, and starts closed
    for _ in range(2):
        expect(menu).to_be_visible(visible=beside)
        button.click()
        expect(menu).to_be_visible(visible=not beside)
        button.click() if beside else page.mouse.click(size["width"] - 10, 400)
    expect(menu).to_be_visible(visible=beside)
    if not beside:
        button.click()
    menu.get_by_role("link", name=re.compile("^6[.]")).click()
    page.wait_for_url("**/06_*.html")


@pytest.mark.parametrize("size", [WIDE, TABLET, PHONE], ids=["wide", "tablet", "phone"])
def test_the_page_contents_open_and_lead_to_a_section(page: Page, address: str, size: Any) -> None:
    page.set_viewport_size(size)
    open_page(page, address + CHAPTER)
    contents = page.locator(".bd-sidebar-secondary")
    over = size is not WIDE  # they lie over the text until they are used
    expect(contents).to_be_visible(visible=not over)
    if over:
        page.locator(".secondary-toggle:visible").click()
    contents.get_by_role("link").last.click()
    expect(page.locator(f"{page.evaluate('location.hash')} > h2")).to_be_in_viewport(timeout=10_000)
    expect(contents).to_be_visible(visible=not over)


@pytest.mark.parametrize("name", [CHAPTER, CLAIMS, "book/api.html"])
def test_no_printed_page_is_blank(page: Page, address: str, name: str) -> None:
    page.emulate_media(color_scheme="dark")
    open_page(page, address + name)
    pdf = page.pdf(format="A4")
    sheets = re.findall(rb"/Type /Page\n.*?/Contents (\d+) 0 R", pdf, re.S)
    assert len(sheets) > 5
    for number, sheet in enumerate(sheets, 1):
        found = re.search(rb"\n%s 0 obj\n<<.*?>> ?stream\r?\n(.*?)\r?\nendstream" % sheet, pdf, re.S)
        assert found
        assert re.search(rb"\b(Tj|TJ|Do)\b", zlib.decompress(found[1])), f"page {number} has neither text nor a picture"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # again, after the white of the paper
    assert page.locator("article details[open]").count() == 0


def test_the_address_alone_leads_to_the_landing_page(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_url(f"{address}book/index.html")


@pytest.mark.parametrize("served", [True, False], ids=["served", "from a folder"])
@pytest.mark.parametrize(
    ("query", "anchor"),
    [
        ("quickstart", "book/use_it.html#sixty-seconds-from-an-anndata-and-a-network-to-a-column-in-var"),
        ("install", "book/use_it.html#install"),
        ("installing", "book/use_it.html#install"),
        ("secant weight", "book/glossary.html#term-secant-weight"),
        ("prior_variance", "book/api.html#regnet.prior_variance"),
        ("tau", "book/notation.html#"),
    ],
)
def test_the_search_leads_to_the_section(
    page: Page, address: str, built: Path, served: bool, query: str, anchor: str
) -> None:
    page.goto(f"{address if served else built.as_uri() + '/'}search.html?q={query}")
    found = page.locator(f"#search-results li a[href^='{anchor}']").first
    expect(found).to_be_visible(timeout=10_000)
    texts = page.locator("#search-results li").all_inner_texts()
    assert not [text for text in texts if re.search(r"\\[a-z(\[]+|\$.*\$", text)], "TeX in the results"
    found.click()
    page.wait_for_url(f"**/{anchor}*")
    place = page.locator(f"[id='{page.evaluate('decodeURIComponent(location.hash.slice(1))')}']")
    expect(place).to_be_in_viewport(timeout=10_000)


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_search_starts_from_a_chapter(page: Page, address: str, size: Any) -> None:
    page.set_viewport_size(size)
    open_page(page, address + CHAPTER)
    page.get_by_role("button", name="Search").locator("visible=true").first.click()
    page.locator(".search-button__wrapper input[type=search]").fill("quickstart")
    page.keyboard.press("Enter")
    expect(page.locator("#search-results li a").first).to_have_text(re.compile("Sixty seconds"), timeout=10_000)


# Formulas that stick out of their cell, and boxes around a table that scroll although all of it should fit.
CLIPPED = """() => {
    const out = (e, box) => e.getBoundingClientRect().right > box.getBoundingClientRect().right + 1;
    const formulas = [...document.querySelectorAll('table.claims mjx-math')].filter(e => out(e, e.closest('td')));
    const boxes = [...document.querySelectorAll('.pst-scrollable-table-container:has(table.claims)')]
        .filter(e => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight);
    return [...formulas, ...boxes].map(e => e.textContent.trim().slice(0, 60));
}"""


def test_no_formula_in_the_table_of_claims_is_clipped(page: Page, address: str) -> None:
    open_page(page, address + CLAIMS)
    assert page.locator("table.claims mjx-math").count() > 50
    for width in (1400, 1100, 992, 801, 700, 390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert not page.evaluate(CLIPPED), width
    page.set_viewport_size({"width": 700, "height": 844})
    page.emulate_media(media="print")
    assert not page.evaluate(CLIPPED), "on paper"


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_claims_can_be_filtered_and_sorted(page: Page, address: str, size: Any) -> None:
    page.set_viewport_size(size)
    open_page(page, address + CLAIMS)
    table, bar = page.locator("table.claims").first, page.locator(".claims-bar").first
    rows = table.locator("tbody tr:visible")
    total = rows.count()
    bar.get_by_role("combobox").select_option("holds in part")
    assert 0 < rows.count() < total
    assert {cell.strip() for cell in rows.locator("td:nth-child(2)").all_inner_texts()} == {"holds in part"}
    expect(bar.get_by_role("status")).to_have_text(f"{rows.count()} of {total} rows")
    bar.get_by_role("combobox").select_option("every verdict")
    bar.get_by_role("searchbox").press_sequentially("robbins")
    assert rows.count() == 1
    bar.get_by_role("searchbox").fill("")
    assert rows.count() == total
    chapters = rows.locator("td:last-child a.reference")
    before = chapters.all_inner_texts()
    heading = table.get_by_role("button", name="Chapter")
    heading.focus()
    page.keyboard.press("Enter")
    ascending = chapters.all_inner_texts()
    assert ascending == sorted(before, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    heading.click()
    assert chapters.first.inner_text() == ascending[-1]
    heading.click()
    assert chapters.all_inner_texts() == before


def test_every_claim_has_an_anchor_and_leads_to_its_verdict(page: Page, address: str) -> None:
    open_page(page, address + CLAIMS)
    rows = page.locator("table.claims tbody tr")
    anchors = rows.evaluate_all("rows => rows.map(row => row.querySelector('[id^=claim-]').id)")
    assert len(set(anchors)) == len(anchors) == rows.count() > 60
    assert page.locator("table.claims").first.locator("tr[class*=verdict-]").count() == sum(
        "verdict" in name for name in anchors
    )
    row = rows.nth(20)
    row.hover()
    row.get_by_role("link", name="Link to this row").click()
    assert page.url.endswith(f"#{anchors[20]}")
    verdict = row.locator("td:nth-child(2)").inner_text()
    row.locator("td:last-child a.reference").click()
    page.wait_for_url(f"**/book/*#{anchors[20].removeprefix('claim-')}")
    place = page.locator(f"tr:has([id='{anchors[20].removeprefix('claim-')}'])")
    expect(place).to_be_in_viewport(timeout=10_000)
    assert place.locator("td:nth-child(2)").inner_text() == verdict


def test_without_javascript_the_claims_are_a_table(browser: Browser, address: str) -> None:
    with browser.new_context(viewport=WIDE, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address + CLAIMS)
        assert page.locator("table.claims tbody tr").count() > 60
        expect(page.locator("table.claims thead").first).to_have_text(re.compile("Verdict"))
        assert page.locator(".claims-bar").count() == 0


def test_no_heading_is_parted_from_its_text_on_paper(page: Page, address: str) -> None:
    page.emulate_media(media="print")
    open_page(page, address + CHAPTER)
    headings = page.locator("article :is(h1, h2, h3)")
    styles = headings.evaluate_all("all => all.map(e => [getComputedStyle(e).breakInside, getComputedStyle(e).breakAfter])")
    assert styles and all(style == ["avoid", "avoid"] for style in styles)


@pytest.mark.parametrize(
    ("name", "link", "expected"),
    [
        ("book/index.html", "[href$='#eq-1']", "mjx-container"),
        ("book/index.html", "[href$='#term-regulator']", "dl > dt"),
        ("book/index.html", "[href$='#fig-index-answer']", "figure img"),
        ("book/index.html", "[href*='10_references.html#']", "div.citation"),
        ("book/04_directional_sensitivity.html", "[href$='#regnet.sensitivities']", "dl > dt"),
    ],
)
def test_a_link_shows_what_it_leads_to(page: Page, address: str, name: str, link: str, expected: str) -> None:
    open_page(page, address + name)
    page.locator(f"article a.reference{link}").first.hover()
    page.wait_for_selector(f".link-preview:not([hidden]) {expected}", timeout=10_000)
    page.keyboard.press("Escape")
    page.wait_for_selector(".link-preview", state="hidden")
