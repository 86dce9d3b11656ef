"""The search, and the page of all claims, in a real browser. As test_pages.py, skipped where there is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pages import CHAPTER, CLAIMS, PHONE, WIDE, open_page
from playwright.sync_api import Browser, Page, expect


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
    if size is PHONE:  # without columns, a word says what the number is
        words = chapters.evaluate_all(
            "all => all.map(e => [e.textContent, getComputedStyle(e.parentElement, '::before').content])"
        )
        assert all(said == ('"chapter "' if name.isdigit() else '"appendix "') for name, said in words)
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
