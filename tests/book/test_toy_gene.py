"""The toy gene of "The note on one page", whose two variances can be changed, in a real browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pages import PHONE, WIDE, open_page
from playwright.sync_api import Browser, Page, expect
from test_pages import OVERFLOW, barriers

TOY = "book/00_note_on_one_page.html"


def rows(page: Page) -> dict[str, list[float]]:
    """The numbers of Eq. (1) and of section 6, by row."""
    found = page.locator(".toy-gene tr[data-row]").evaluate_all(
        "all => all.map(row => [row.dataset.row, ...[1, 2].map(k => Number(row.cells[k].textContent))])"
    )
    return {name: numbers for name, *numbers in found}


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_keyboard_moves_the_posterior_mean(page: Page, address: str, size: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size(size)
    open_page(page, address + TOY)
    expect(page.locator("#fig-ch00-toy img")).to_be_hidden()
    assert rows(page) == {"weight": [0.75, 0.25], "estimate": [5, 3], "error": [0.75, 1.75]}  # as in the text
    noise, prior = (page.get_by_role("slider", name=f"{name} variance") for name in ("Noise", "Prior"))
    dot, spoken = page.locator(".toy-bayes"), page.locator(".toy-gene output[aria-live=polite]")
    before = float(dot.get_attribute("cx") or "nan")
    noise.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    expect(prior).to_be_focused()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    expect(noise).to_have_attribute("aria-valuetext", "noise variance 3")
    expect(prior).to_have_attribute("aria-valuetext", "prior variance 1")
    assert rows(page) == {"weight": [0.25, 0.75], "estimate": [3, 5], "error": [0.75, 1.75]}
    expect(spoken).to_have_text("Eq. (1) estimates 3.00, section 6 estimates 5.00.")
    expect(page.get_by_role("img", name=re.compile("Eq. .1. estimates 3.00"))).to_be_visible()
    assert float(dot.get_attribute("cx") or "nan") < before
    page.keyboard.press("Home")
    noise.focus()
    page.keyboard.press("End")
    assert rows(page) == {"weight": [0.06, 0.94], "estimate": [2.24, 5.76], "error": [0.24, 3.54]}
    assert not page.evaluate(OVERFLOW)
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sliders_are_open_to_everyone(page: Page, address: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    open_page(page, address + TOY)
    assert not barriers(page)
    for name in (".toy-bayes", ".toy-printed"):  # the marks, against what they lie on
        colors = page.locator(name).evaluate(
            "e => [getComputedStyle(e).fill, getComputedStyle(document.body).backgroundColor]"
        )
        light, dark = sorted(map(luminance, colors), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3, name


def luminance(color: str) -> float:
    """The relative luminance of `rgb(r, g, b)` as WCAG defines it."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_in_a_preview_on_paper_and_without_javascript_it_is_a_picture(browser: Browser, page: Page, address: str) -> None:
    open_page(page, address + TOY)
    page.locator("article a[href='#fig-ch00-toy']").first.hover()
    expect(page.locator(".link-preview img")).to_be_visible()
    page.keyboard.press("Escape")
    page.emulate_media(media="print")
    expect(page.locator(".toy-gene")).to_be_hidden()
    expect(page.locator("#fig-ch00-toy img")).to_be_visible()
    with browser.new_context(viewport=PHONE, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address + TOY)
        expect(page.locator("#fig-ch00-toy img")).to_be_visible()
        assert page.locator(".toy-gene").count() == 0
