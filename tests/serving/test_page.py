"""The page: served whole, without any other host; and driven in a browser, where there is one."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from serving.conftest import SIZES, png, running
from transformers_detr.serving import app as app_module

WIDTHS = {390: 844, 1280: 860}


def test_it_is_served_whole(service):
    page = service.request("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    text = page.body.decode()
    asked = set(re.findall(r'(?:href|src)="([^"]+)"', text))
    seen = set()
    while asked:
        address = asked.pop()
        seen.add(address)
        response = service.request(f"/{address}")
        assert response.status == 200, address
        if address.endswith(".js"):
            assert "javascript" in response.headers["Content-Type"]
            asked |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', response.body.decode())} - seen
    assert {path.name for path in app_module._PAGE.iterdir()} - {"index.html"} == {name.split("/")[1] for name in seen}


def test_no_other_host_is_named():
    for path in app_module._PAGE.iterdir():
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org"}, path


def test_what_scripts_name_is_on_the_page():
    text = (app_module._PAGE / "index.html").read_text()
    ids = set(re.findall(r'id="([^"]+)"', text))
    for path in app_module._PAGE.glob("*.js"):
        named = set(re.findall(r'element\("([\w-]+)"\)', path.read_text()))
        assert named <= ids, path


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as driver:
        program = program or driver.chromium.executable_path
        if not Path(program).exists():
            pytest.skip("Chromium is neither on the path nor installed by `playwright install chromium`")
        chromium = driver.chromium.launch(executable_path=program, args=[*flags, "--use-fake-ui-for-media-stream"])
        yield chromium
        chromium.close()


def wait_for(condition):
    """The page's policy allows no code in strings, which the browser's own waiting would need."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Page:
    """The page in a browser, with what it asked for and what went wrong."""

    def __init__(self, browser, service, width):
        self.context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, has_touch=width < 500)
        self.page = self.context.new_page()
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append((request.method, request.url)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(service.url)
        wait_for(lambda: self.page.locator("#model option").count() > 0)

    def drop(self, content, name="photo.png"):
        """Drop a file onto the page, as a hand does."""
        transfer = self.page.evaluate_handle(
            """([bytes, name]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
                return transfer;
            }""",
            [list(content), name],
        )
        self.page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})
        self.wait()

    def wait(self):
        self.page.wait_for_selector(".frame:not(.busy) .marker", state="attached", timeout=60_000)

    def slide(self, value):
        self.page.locator("#threshold").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
        )

    def shown(self):
        return self.page.locator(".marker:not([hidden])").count()

    def posts(self):
        return [url for method, url in self.asked if method == "POST"]


@pytest.fixture(params=WIDTHS)
def page(browser, service, request):
    page = Page(browser, service, request.param)
    yield page
    assert not page.errors
    assert all(url.startswith((service.url, "blob:", "data:")) for _, url in page.asked), "another host was asked"
    page.context.close()


@pytest.mark.slow
def test_objects(page, service, detector, images, tmp_path):
    """Drop, boxes, slider, classes, attention, keyboard, downloads; seconds."""
    image = images[4].resize((960, 480))
    expected = detector(image, threshold=0.05).to_dict(integer_pixels=True)
    scores = sorted((entry["score"] for entry in expected), reverse=True)
    page.drop(png(image))
    page.page.screenshot(path=tmp_path / "boxes.png", full_page=True)
    assert page.shown() == sum(score >= 0.7 for score in scores)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= page.page.viewport_size["width"]

    assert_boxes(page, expected, image)
    page.slide(5)
    assert page.shown() == len(expected)
    page.slide(95)
    assert page.shown() == sum(score >= 0.95 for score in scores)
    assert len(page.posts()) == 1, "the slider asks nobody"

    page.slide(5)
    label = page.page.locator("#classes button").first.get_attribute("data-label")
    page.page.locator("#classes button").first.click()
    assert page.shown() == sum(entry["label"] != label for entry in expected)
    page.page.locator("#classes button").first.click()

    assert page.page.locator(".attention-shown").count() == 0
    entry = page.page.locator("#results button").nth(1)
    entry.hover() if page.page.viewport_size["width"] > 500 else entry.tap()
    page.page.wait_for_selector(".attention-shown", timeout=30_000)
    assert len(page.posts()) == 2
    assert page.page.locator(".marker.selected").count() == 1
    first = attention_pixels(page)
    page.page.screenshot(path=tmp_path / "attention.png", full_page=True)
    page.page.mouse.move(2, 2)
    page.page.locator("#threshold").focus()
    page.page.locator(".marker:not([hidden])").first.focus()
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowRight")
    assert page.page.locator(":focus").evaluate("one => one.classList.contains('marker')")
    assert re.search(r", \d+ percent$", page.page.locator(":focus").get_attribute("aria-label"))
    wait_for(lambda: attention_pixels(page) != first)
    assert len(page.posts()) == 2, "the maps of all were fetched at once"

    with page.page.expect_download() as download:
        page.page.locator("#save-json").click()
    saved = json.loads(download.value.path().read_text())
    assert sorted(saved, key=str) == sorted(expected, key=str)
    with page.page.expect_download() as download:
        page.page.locator("#save-image").click()
    with Image.open(download.value.path()) as drawn:
        assert drawn.size == image.size


def assert_boxes(page, expected, image):
    """Every box lies where the service says, in the pixels of the screen."""
    frame = page.page.locator("#frame").bounding_box()
    page.slide(5)
    boxes = page.page.locator(".marker").evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
    for box, entry in zip(boxes, sorted(expected, key=lambda entry: -entry["score"]), strict=True):
        left = max(entry["box"]["xmin"], 0) / image.width * frame["width"]
        bottom = min(entry["box"]["ymax"], image.height) / image.height * frame["height"]
        assert box["x"] - frame["x"] == pytest.approx(left, abs=2)
        assert box["y"] + box["height"] - frame["y"] == pytest.approx(max(bottom, 5), abs=6)
    page.slide(70)


def attention_pixels(page):
    return page.page.locator("#attention").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )


@pytest.mark.slow
def test_segments(page, segmenter, images):
    """Masks, and the pixel below the pointer; seconds."""
    page.page.select_option("#model", "org/parts")
    image = images[0].resize((640, 480))
    found = segmenter(image, threshold=0.5)
    page.drop(png(image))
    page.slide(50)
    assert page.shown() == len(found)
    assert page.page.locator("#masks").evaluate("canvas => canvas.width") == 640
    box = page.page.locator("#frame").bounding_box()
    info = max(found.segments_info, key=lambda info: (found.segmentation == info["id"]).sum())
    rows, columns = (found.segmentation == info["id"]).nonzero()
    x, y = (columns[0] + 0.5) / 640, (rows[0] + 0.5) / 480
    page.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    chosen = page.page.locator('#results button[aria-pressed="true"]')
    chosen.wait_for(timeout=10_000)
    assert info["name"] in chosen.inner_text()


@pytest.mark.slow
def test_camera_and_paste(browser, service, images):
    """With the browser's made-up camera; seconds."""
    page = Page(browser, service, 1280)
    page.page.locator("#open-camera").click()
    page.page.locator("#shoot").click(timeout=20_000)
    page.wait()
    assert page.page.locator("#image").evaluate("canvas => canvas.width") >= 640
    page.page.evaluate(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        list(png(images[0])),
    )
    wait_for(lambda: page.page.locator("#image").evaluate("canvas => canvas.width") == SIZES[0][0])
    page.wait()
    assert not page.errors
    page.context.close()


@pytest.mark.slow
def test_errors_are_shown(browser, service, images):
    """What is no image, and a service that has gone; seconds."""
    page = Page(browser, service, 390)
    page.page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.page.wait_for_selector("#error:not([hidden])")
    assert "cannot open" in page.page.locator("#error").inner_text()
    page.page.route("**/models/**", lambda route: route.abort())
    page.page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png(images[0])})
    wait_for(lambda: "cannot be reached" in page.page.locator("#error").inner_text())
    page.context.close()


def focused(page):
    """Return what the keyboard is on: its id, or its accessible name."""
    return page.evaluate(
        "() => document.activeElement.id || document.activeElement.getAttribute('aria-label')"
        " || document.activeElement.textContent.trim()"
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_by_keyboard_alone(browser, loaders, detector, images, width, scheme):
    """Type and paste the token, reach every control by Tab, move the slider, step over objects; seconds."""
    context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with running(loaders, preload=True, token="s3cret token") as service:
        service.wait_until_ready()
        page.goto(service.url)
        page.wait_for_selector("#token-form:not([hidden])")
        page.keyboard.press("Tab")
        assert focused(page) == "token"
        page.keyboard.type("s3cret")
        page.keyboard.press("Control+A")
        page.keyboard.press("Control+X")
        assert page.locator("#token").input_value() in ("", "s3cret")  # a password may not be cut
        page.keyboard.press("Control+A")
        page.keyboard.type("s3cret token")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-form", state="hidden")

        with page.expect_file_chooser() as chooser:
            for _ in range(12):
                page.keyboard.press("Tab")
                if focused(page) == "choose":
                    break
            page.keyboard.press("Enter")
        chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": png(images[4].resize((960, 480)))})
        page.wait_for_selector("#panel:not([hidden])")
        wait_for(lambda: page.locator(".marker").count() > 0)

        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(focused(page))
            if reached[-1] == "threshold":
                before = int(page.locator("#threshold").input_value())
                page.keyboard.press("ArrowLeft")
                assert int(page.locator("#threshold").input_value()) == before - 1
                page.keyboard.press("ArrowRight")
                assert int(page.locator("#threshold").input_value()) == before
            elif page.evaluate("() => document.activeElement.classList.contains('marker')"):
                first = page.evaluate("() => document.activeElement.getAttribute('aria-label')")
                page.keyboard.press("ArrowRight")
                step = page.evaluate("() => document.activeElement.getAttribute('aria-label')")
                assert step
                assert step != first or page.locator(".marker:not([hidden])").count() == 1
        assert {"choose", "save-image", "save-json", "threshold"} <= set(reached)
        assert all(reached), "a control has no name"
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, [role]")]
                .filter((one) => one.checkVisibility() && !one.closest("[aria-hidden=true]"))
                .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
                .map((one) => one.outerHTML)"""
        )
        assert [one for one in unnamed if "role" not in one] == []
        page.keyboard.press("Escape")
    assert not errors
    context.close()
