"""The built HTML in a real browser, wide and phone-sized, light, dark and printed, served without network.

Needs `make book` and Chromium or Chrome. Skipped with the reason where one is missing; `make pages` and continuous
integration set REGNET_REQUIRE_PAGES=1, and it fails instead.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import CHAPTER, CLAIMS, PHONE, TABLET, WIDE, listed_files, open_page
from playwright.sync_api import Page, expect

OF_SPHINX = ["genindex.html", "search.html", "_modules/regnet/bayes.html"]
PAGES = [*(str(Path(file).with_suffix(".html")) for file in listed_files()), *OF_SPHINX]


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
