"""The web page in a browser, in front of a fake service."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from fake_policy import FakePolicies, completion
from fake_policy import fake_service as real_service
from fake_service import CONFIDENCES, REASONING, VOTES, fake_service, running
from malformed import encoded, noise
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from dermo_ray.config.safety import SafetySettings
from dermo_ray.morphology import DERM7PT_FIELDS
from serve.api import build_api
from serve.page import HEADERS
from serve.safety import keys

FILE = {"name": "lesion.png", "mimeType": "image/png", "buffer": encoded(noise())}
PHONE = {"width": 360, "height": 740}
FOCUSED = "(({ id, value, textContent }) => id || value || textContent)(document.activeElement)"


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with running(fake_service()) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A service that asks for a key and takes small bodies, and a key to it."""
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    key = keys.add(file, "lab", "client")
    with running(fake_service(SafetySettings(keys_file=file, max_body_mib=0.05))) as url:
        yield url, key


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, service: str) -> Iterator[Open]:
    """Opens the page; afterwards nothing may have failed in it, and nothing been asked of another place."""
    pages: list[tuple[Page, str, list[str], list[str]]] = []

    def open_page(url: str = service, **options: Any) -> Page:
        page = browser.new_context(reduced_motion="reduce", **options).new_page()
        page.set_default_timeout(10_000)
        errors: list[str] = []
        requests: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        pages.append((page, url, errors, requests))
        page.goto(url)
        return page

    yield open_page
    for page, url, errors, requests in pages:
        page.context.close()
        # Chromium reports every answer that is no 2xx on its own
        assert [error for error in errors if not error.startswith("Failed to load resource")] == []
        assert [asked for asked in requests if not asked.startswith((url, "blob:", "data:"))] == []


def choose(page: Page, file: dict[str, Any] = FILE) -> None:
    page.get_by_label("Image:").set_input_files(file)  # type: ignore[arg-type]


def ask(page: Page, modality: str = "Dermoscopic", cct: bool = False) -> None:
    choose(page)
    page.get_by_role("radio", name=modality).check()
    page.get_by_role("switch").set_checked(cct)
    expect(page.get_by_label("Model version")).to_be_enabled()
    page.get_by_role("button", name="Analyse the image").click()


def answer_with(page: Page, path: str, **answer: Any) -> None:
    page.route(f"**/{path}", lambda route: route.fulfill(**answer))


def refused(status: int, message: str = "no", **headers: str) -> dict[str, Any]:
    return {"status": status, "json": {"error": {"message": message}}, "headers": headers}


def test_the_answer_is_shown_from_reasoning_to_version(opened: Open):
    page = opened()
    ask(page, cct=True)
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^Done: Melanoma, \d+%\.$"))
    expect(page.get_by_role("region", name="Reasoning")).to_contain_text(REASONING["dermoscopic"])
    findings = page.get_by_role("region", name="What the skin shows").get_by_role("listitem")
    expect(findings).to_have_count(len(DERM7PT_FIELDS))
    expect(findings.nth(0)).to_have_text(re.compile("Pigment Network.*present: atypical"))
    expect(findings.nth(2)).to_have_text(re.compile("Vascular Structures.*absent$"))
    rows = page.get_by_role("region", name="Diagnosis").get_by_role("row")
    expect(rows).to_have_count(len({answer for answer in VOTES["dermoscopic"] if answer}))
    expect(rows.nth(0)).to_have_text(re.compile(r"Melanoma\d+%"))
    expect(page.get_by_text("Research use only.").first).to_be_visible()
    origin = page.get_by_role("region", name="Where this comes from")
    expect(origin).to_contain_text("dermo@step_000060/v60")
    expect(origin).to_contain_text("not a medical device")


def test_the_page_and_the_real_routes_fit_together(opened: Open):
    policies = FakePolicies(lambda release, body: completion("Melanoma" if body["seed"] % 4 else "Melanocytic Nevus"))
    with running(build_api(real_service(policies))) as url:
        page = opened(url)
        ask(page, cct=True)
        expect(page.get_by_role("status")).to_have_text(re.compile(r"^Done: Melanoma, \d+%\.$"))
        expect(page.get_by_role("region", name="Reasoning")).to_contain_text("The network is atypical.")
        expect(page.get_by_role("region", name="Diagnosis").get_by_role("row")).to_have_count(2)
        votes = page.get_by_role("region", name="Views and votes")
        expect(votes.get_by_role("img")).to_have_count(4)
        expect(votes.locator(".view ul li")).to_have_count(8)
        expect(votes).to_contain_text("8 samples; 8 gave an answer. A plain majority would say Melanoma.")
        expect(page.get_by_role("region", name="Where this comes from")).to_contain_text("dermo@step_000060/v60")
        page.get_by_role("switch").press("Space")
        page.get_by_role("button", name="Analyse the image").click()
        expect(page.get_by_role("status")).to_have_text("Done: Melanoma, 90%.")
        page.context.close()


def test_every_view_shows_its_picture_and_its_votes(opened: Open):
    page = opened()
    ask(page, cct=True)
    region = page.get_by_role("region", name="Views and votes")
    expect(region.get_by_role("img")).to_have_count(4)
    expect(region.get_by_role("img", name="The image, untouched")).to_be_visible()
    votes = region.locator(".view ul li")
    expect(votes).to_have_count(len(CONFIDENCES))
    expect(region.get_by_text("no answer")).to_have_count(1)
    total = sum(int(text) for vote in votes.all_inner_texts() for text in re.findall(r"counts (\d+)%", vote))
    assert 97 <= total <= 103


def test_without_cct_there_is_one_answer_and_no_vote(opened: Open):
    page = opened()
    ask(page, "Clinical")
    expect(page.get_by_role("status")).to_have_text("Done: Psoriasis, 91%.")
    expect(page.get_by_role("region", name="Views and votes")).to_be_hidden()
    expect(page.get_by_role("region", name="What the skin shows").get_by_role("listitem")).to_have_count(3)


def test_the_request_says_what_was_picked(opened: Open):
    page = opened()
    expect(page.get_by_label("Model version").locator("option")).to_have_count(3)
    page.get_by_label("Model version").select_option("dermo@step_000080")
    with page.expect_request("**/v1/diagnose") as caught:
        ask(page, "Dermoscopic", cct=True)
    sent = caught.value.post_data_json
    assert sent.pop("image").startswith("data:image/png;base64,")
    assert sent == {
        "modality": "dermoscopic", "model": "dermo@step_000080", "cct": True, "view_images": True, "stream": True,
    }  # fmt: skip
    expect(page.get_by_role("region", name="Where this comes from")).to_contain_text("dermo@step_000080/v80")


def test_an_image_is_shown_at_once_and_not_sent_before_it_is_asked_about(opened: Open):
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    choose(page)
    expect(page.get_by_role("img", name="Preview of lesion.png")).to_be_visible()
    expect(page.locator("#file-hint")).to_contain_text("lesion.png")
    assert asked == []


def test_an_image_can_be_dropped_anywhere_and_pasted(opened: Open):
    page = opened()
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([kind, holder, name]) => {
                 const canvas = new OffscreenCanvas(64, 64);
                 canvas.getContext("2d").fillRect(0, 0, 64, 64);
                 const items = new DataTransfer();
                 items.items.add(new File([await canvas.convertToBlob()], name, { type: "image/png" }));
                 const made = kind === "drop"
                   ? new DragEvent(kind, { dataTransfer: items, bubbles: true, cancelable: true })
                   : new ClipboardEvent(kind, { clipboardData: items, bubbles: true });
                 document.body.dispatchEvent(made);
               }""",
            [kind, holder, f"{kind}.png"],
        )
        expect(page.get_by_role("img", name=f"Preview of {kind}.png")).to_be_visible()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"}, "no JPEG, PNG or WebP"),
        ({"name": "a.png", "mimeType": "image/png", "buffer": b"nonsense"}, "damaged"),
    ],
)
def test_a_file_that_is_no_image_is_refused_on_the_spot(opened: Open, file: dict[str, Any], message: str):
    page = opened()
    choose(page, file)
    expect(page.locator("#file-error")).to_contain_text(message)
    page.get_by_role("button", name="Analyse the image").click()
    expect(page.locator("#file-error")).to_have_text("Choose an image first.")
    expect(page.get_by_label("Image:")).to_be_focused()


def test_what_a_model_writes_is_shown_as_text(opened: Open):
    page = opened()
    attack = '<img src=x onerror="document.title=1"><script>document.title=1</script>'

    def rewrite(route: Route) -> None:
        body = route.fetch().text().replace(REASONING["dermoscopic"], attack.replace('"', '\\"'))
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/v1/diagnose", rewrite)
    ask(page)
    expect(page.get_by_role("region", name="Reasoning")).to_contain_text(attack)
    expect(page).to_have_title("DermoRay")


def test_reasoning_appears_while_it_is_written_without_its_tags(opened: Open):
    page = opened()
    deltas = ["<reas", "oning>The ", "veil ", "is blue.</reaso", "ning>\n<morph>{"]
    seen = page.evaluate(
        """async (deltas) => {
             const { reasoningIn } = await import("./page/result.js");
             return deltas.map((_, i) => reasoningIn(deltas.slice(0, i + 1).join("")));
           }""",
        deltas,
    )
    assert seen == ["", "The ", "The veil ", "The veil is blue.", "The veil is blue."]


def test_a_service_that_asks_for_a_key_gets_it_from_the_field(opened: Open, guarded: tuple[str, str]):
    url, key = guarded
    page = opened(url)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    expect(page.get_by_role("alert").filter(has_text="key")).to_be_visible()
    field.fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("alert").filter(has_text="not known")).to_be_visible()
    field.fill(key)
    field.press("Enter")
    expect(field).to_be_hidden()
    expect(page.locator(".problem")).to_have_count(0)
    ask(page)
    expect(page.get_by_role("status")).to_contain_text("Done: Melanoma")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_an_image_that_is_too_large_says_so(opened: Open, guarded: tuple[str, str]):
    url, key = guarded
    page = opened(url)
    page.get_by_label("API key").fill(key)
    page.get_by_label("API key").press("Enter")
    page.get_by_label("Image:").set_input_files(
        {"name": "large.png", "mimeType": "image/png", "buffer": encoded(noise(300, 300))}
    )
    expect(page.get_by_label("Model version")).to_be_enabled()
    page.get_by_role("button", name="Analyse the image").click()
    expect(page.get_by_role("alert").filter(has_text="too large for this service")).to_be_visible()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refused(429, "Too many requests.", **{"Retry-After": "7"}), "Try again in 7 s."),
        (refused(503, "All replicas are busy.", **{"Retry-After": "2"}), "Try again in 2 s."),
        (refused(400, "The image is animated."), "The image is animated."),
        (refused(500, "The server failed to answer."), "failed to answer"),
        ({"status": 502, "body": "<html>Bad gateway</html>"}, "status 502"),
        ({"status": 200, "content_type": "text/event-stream", "body": "event: delta\ndata: {}\n\n"}, "broke off"),
        (
            {
                "status": 200,
                "content_type": "text/event-stream",
                "body": 'event: error\r\ndata: {"error": {"message": "The engine died."}}\r\n\r\n',
            },
            "The engine died.",
        ),
    ],
)
def test_what_goes_wrong_is_said_and_can_be_tried_again(opened: Open, answer: dict[str, Any], message: str):
    page = opened()
    answer_with(page, "v1/diagnose", **answer)
    ask(page)
    problem = page.get_by_role("alert").filter(has_text=message)
    expect(problem).to_be_visible()
    page.unroute("**/v1/diagnose")
    again = problem.get_by_role("button", name="Try again")
    (again if answer["status"] != 400 else page.get_by_role("button", name="Analyse the image")).click()
    expect(page.get_by_role("status")).to_contain_text("Done: Melanoma")
    expect(page.locator(".problem")).to_have_count(0)


def test_a_service_that_is_gone_is_named_as_such(opened: Open):
    page = opened()
    expect(page.get_by_label("Model version")).to_be_enabled()
    page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    ask(page)
    expect(page.get_by_role("alert").filter(has_text="can't be reached")).to_be_visible()
    expect(page.get_by_role("region", name="Reasoning")).to_be_hidden()


def test_an_answer_under_way_can_be_stopped(browser: Browser):
    with running(fake_service(pause=0.2)) as url:
        page = browser.new_page()
        page.goto(url)
        ask(page)
        stop = page.get_by_role("button", name="Stop")
        expect(stop).to_be_focused()
        expect(page.get_by_role("region", name="Reasoning")).to_contain_text("The lesion")
        stop.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Stopped.")
        expect(page.get_by_role("button", name="Analyse the image")).to_be_focused()
        page.context.close()


def test_the_keyboard_alone_is_enough(opened: Open):
    page = opened()
    expect(page.get_by_label("Model version")).to_be_enabled()
    choose(page)  # the system's own dialogue, which Enter opens, is not the page's
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert reached[:6] == ["Skip to the result", "file", "clinical", "model", "cct", "ask"]
    page.get_by_label("Image:").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Done: Melanoma")
    expect(page.locator("#results")).to_be_focused()


def test_every_control_has_a_name_and_the_page_a_language_and_landmarks(opened: Open):
    page = opened()
    ask(page, cct=True)
    expect(page.get_by_role("status")).to_contain_text("Done")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, summary, progress")]
             .filter((control) => !control.labels?.length && !control.ariaLabel && !control.textContent.trim())
             .map((control) => control.outerHTML)"""
    )
    assert unnamed == []
    assert page.evaluate("document.documentElement.lang") == "en"
    for role in ("banner", "main", "form"):
        expect(page.get_by_role(role)).to_have_count(1)
    headings = page.locator("h1, h2, h3, h4").filter(visible=True).all()
    levels = [int(heading.evaluate("(heading) => heading.tagName")[1]) for heading in headings]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")


CONTRAST = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && !element.closest(".unseen, .skip, svg, select, :disabled")
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((element) => {
    const colours = [numbers(getComputedStyle(element).color).slice(0, 3), behind(element)];
    const [a, b] = colours.map(light).sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), element.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened: Open, scheme: str):
    page = opened(color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    ask(page, cct=True)
    expect(page.get_by_role("status")).to_contain_text("Done")
    assert page.evaluate(CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 26)") == (scheme == "dark")


def test_nothing_sticks_out_at_the_width_of_a_phone(opened: Open):
    page = opened(viewport=PHONE)
    ask(page, cct=True)
    expect(page.get_by_role("status")).to_contain_text("Done")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    small = page.evaluate(
        """[...document.querySelectorAll("button, select, .choice, .drop label")]
             .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 40).map((e) => e.outerHTML)"""
    )
    assert small == []


def test_the_page_may_load_nothing_from_elsewhere(opened: Open, service: str):
    page = opened()
    sent = page.request.get(service).headers
    for name, value in HEADERS.items():
        assert sent[name.lower()] == value
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert page.evaluate("document.querySelectorAll('script:not([src]), style, [style]').length") == 0


def test_the_preview_is_the_picture_itself(opened: Open):
    page = opened()
    tall = {"name": "tall.png", "mimeType": "image/png", "buffer": encoded(Image.new("RGB", (50, 400), "red"))}
    choose(page, tall)
    preview = page.get_by_role("img", name="Preview of tall.png")
    expect(preview).to_be_visible()
    width, height = preview.evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    assert (width, height) == (50, 400)
