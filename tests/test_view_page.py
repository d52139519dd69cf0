"""The viewer's page in headless Chromium: what a reader does with it, by pointer, by keys, on a phone."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, ViewportSize, expect

from dermo_ray.rollouts import read
from dermo_ray.view.api import build_app

PHONE = ViewportSize(width=390, height=844)


@pytest.fixture(scope="module")
def url(synthetic_run: Path) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(synthetic_run), log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the viewer did not start within 20 s"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, ready; whatever the browser complains of or asks elsewhere fails the test."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.route(lambda address: not address.startswith(url), lambda route: complaints.append(route.request.url))
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert complaints == []


def opened(page: Page) -> Page:
    """The page with the group of lowest reward open."""
    page.select_option("select[name=order]", "lowest")
    page.wait_for_selector("#groups:not([aria-busy])")
    page.locator("#groups a").first.click()
    page.wait_for_selector(".completion")
    return page


def test_groups_are_listed_and_filtered(page: Page, synthetic_run: Path) -> None:
    rows = read(synthetic_run / "rollouts")
    expect(page.locator("#name")).to_have_text("synthetic-run")
    expect(page.locator("#status")).to_have_text(f"4 steps, {len(rows)} completions")
    expect(page.locator("#groups li")).to_have_count(24)
    page.select_option("select[name=step]", "2")
    expect(page.locator("#groups li")).to_have_count(6)
    page.check("input[name=gated]")
    gated = {row.prompt_id for row in rows if row.step == 2 and row.gate < 1 and row.gated}
    expect(page.locator("#groups li")).to_have_count(len(gated))
    page.click("text=Clear")
    expect(page.locator("#groups li")).to_have_count(24)
    page.select_option("select[name=order]", "lowest")
    page.wait_for_selector("#groups:not([aria-busy])")
    means = [float(text) for text in page.locator("#groups .figures .number").all_text_contents()]
    assert means == sorted(means)
    assert means[0] < means[-1]
    page.keyboard.press("/")
    page.fill("input[name=prompt]", "nothing is called this")
    expect(page.locator("#count")).to_have_text("No group is like that.")


def test_a_group_shows_completions_side_by_side_with_image_reward_and_reasons(page: Page) -> None:
    opened(page)
    cards = page.locator(".completion")
    expect(cards).to_have_count(4)
    tops = cards.evaluate_all("cards => cards.map(card => card.getBoundingClientRect().top)")
    assert tops[0] == tops[1]
    assert page.locator(".lesion img").evaluate("image => image.naturalWidth") > 0
    expect(cards.first.locator(".terms")).to_contain_text("morphology")
    expect(page.locator(".reason").first).to_contain_text("diagnosis and taxonomy count to")
    expect(page.locator(".findings tbody tr").first).to_contain_text("Diagnosis")
    page.select_option("select[name=fault]", index=1)
    page.wait_for_selector("#groups:not([aria-busy])")
    page.locator("#groups a").first.click()
    expect(page.locator(".faults").first).to_contain_text("of the format term.")


def test_tokens_are_coloured_by_probability_gap_and_version(page: Page) -> None:
    opened(page)
    text = page.locator(".tokens").first
    assert text.locator("[class^=share-]").count() > 10
    page.keyboard.press("c")  # learner
    page.keyboard.press("c")  # gap
    expect(text.locator("[class^=less-], [class^=more-]").first).to_be_attached()
    page.check("input[value=version]")
    expect(text.locator("[class^=version-]").first).to_be_attached()
    expect(page.locator("#legend")).to_contain_text("version")
    assert "colour=version" in page.url
    text.focus()
    page.keyboard.press("ArrowRight")
    line = page.locator(".completion .readout").first
    expect(line).to_have_text(re.compile(r"^token 1 of \d+, “.*” · engine \d+ % .* · learner .* · version \d$"))


def test_the_same_prompt_is_compared_across_steps(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("phantom_0000")
    expect(page.locator("#groups li")).to_have_count(3)
    page.locator("#groups a").first.click()
    expect(page.locator("#comparison .difference")).to_be_visible()
    page.select_option("#comparison select >> nth=0", "0")
    expect(page.locator("#comparison thead")).to_contain_text("step 0")
    whole = page.locator(".completion .tokens").first.inner_text().removesuffix("<|im_end|>")
    page.select_option("#comparison select >> nth=2", "0")
    page.wait_for_selector("#comparison:not([aria-busy])")
    expect(page.locator("#comparison select >> nth=2")).to_have_value("0")
    kept = page.locator(".difference").evaluate(
        "node => [...node.childNodes].filter(part => part.nodeName !== 'DEL').map(part => part.textContent).join('')"
    )
    assert kept == whole
    heading = page.locator("#group h2 ~ p").nth(1)
    expect(heading).to_contain_text("Step 2")
    page.keyboard.press("[")
    expect(heading).to_contain_text("Step 1")


def test_keys_walk_through_the_groups_and_the_way_back_is_kept(page: Page) -> None:
    page.keyboard.press("j")
    page.wait_for_selector(".completion")
    first = page.url
    page.keyboard.press("j")
    page.wait_for_function("address => location.href !== address", arg=first)
    expect(page.locator("#groups a[aria-current]")).to_have_count(1)
    page.go_back()
    page.wait_for_url(first)
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("input[name=prompt]")).to_be_focused()


def test_curves_are_drawn_for_every_metric(page: Page) -> None:
    page.keyboard.press("2")
    charts = page.locator("#curves .chart")
    expect(charts.first).to_contain_text("reward")
    expect(charts.filter(has_text="loss")).to_have_count(1)
    charts.first.locator("svg").first.focus()
    page.keyboard.press("ArrowRight")
    expect(charts.first.locator(".readout")).to_have_text("at step 1")


def test_what_a_policy_wrote_is_never_markup(page: Page) -> None:
    injected = page.evaluate(
        """async () => {
          const { h } = await import("/static/dom.js");
          return h("p", {}, "<img src=x onerror=alert(1)>").children.length;
        }"""
    )
    assert injected == 0
    scripts = page.evaluate("document.querySelectorAll('[style], script:not([src])').length")
    assert scripts == 0


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_list_and_group_in_turn_and_never_scrolls_sideways(page: Page, dark: bool) -> None:
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark" if dark else "light")
    sideways = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(sideways) <= 0
    page.locator("#groups a").first.click()
    page.wait_for_selector(".completion")
    expect(page.locator("#browse")).to_be_hidden()
    assert page.evaluate(sideways) <= 0
    page.click(".back")
    expect(page.locator("#browse")).to_be_visible()
    page.goto(f"{page.url.partition('#')[0]}#view=curves")
    page.wait_for_selector(".chart")
    assert page.evaluate(sideways) <= 0
