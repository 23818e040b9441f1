"""The page that says what is on pictures, in a real browser."""

import threading

import keras
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from cifar_utils import models, predict
from cifar_utils.web import app as web
from cifar_utils.web import server
from tests.unit.grey import flat, grey_network

pytestmark = pytest.mark.browser


def with_a_place_to_look_at():
    """The network that knows greys apart, behind a convolution that changes nothing."""
    images = keras.Input((32, 32, 3), dtype="uint8")
    x = keras.layers.Conv2D(3, 1, name="same")(keras.layers.Rescaling(1 / 255)(images))
    known = grey_network().get_layer("logits").get_weights()
    model = keras.Model(images, models.logits(keras.layers.GlobalAveragePooling2D()(x)))
    model.get_layer("same").set_weights([np.eye(3).reshape(1, 1, 3, 3), np.zeros(3)])
    model.get_layer("logits").set_weights(known)
    return model


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server with two models: one that knows everything, one that knows nothing."""
    keras.config.set_dtype_policy("float32")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    with_a_place_to_look_at().save(path)
    sources = [
        predict.Source(name, path, 1.0, "highest probability", least)
        for name, least in (
            ("kind/model", 0.0),
            ("strict/model-of-a-run-with-a-long-name-05_resnet50_finetuned", 1.1),
        )
    ]
    (path.parent / "MODEL_CARD.md").write_text("# The card")
    listening = server.listen("127.0.0.1", 0)
    made = server.make(sources, listening, web.Limits(max_pictures=3))
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    made.close()
    thread.join(10)


@pytest.fixture
def provoked():
    """What the browser may complain of; tests that provoke something add it."""
    return []


@pytest.fixture
def page(chromium, address, provoked):
    """The page, open; afterwards nothing may have gone wrong or left this machine."""
    page = chromium.new_page(viewport={"width": 1000, "height": 900})
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    expect(page.locator("#model option")).to_have_count(2)
    yield page
    outside = [url for url in requests if not url.startswith((address, "data:", f"blob:{address}"))]
    assert outside == []
    assert [text for text in problems if not any(each in text for each in provoked)] == []
    assert all(any(each in text for text in problems) for each in provoked)
    page.close()


@pytest.fixture
def files(tmp_path):
    """Paths of pictures of two classes, and of a file that is none."""
    for name, level in (("car", 25), ("bird", 50)):
        flat(level, (60, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    return {path.stem: path for path in tmp_path.iterdir()}


def answers(page):
    """Return the headings of the answers, the newest first."""
    return page.locator("#results h3").all_inner_texts()


def test_one_picture_is_uploaded(page, files):
    page.set_input_files("#files", files["car"])
    card = page.locator("#results article")
    expect(card.locator("h3")).to_have_text("automobile")
    expect(card.locator(".verdict")).to_contain_text("% sure")
    expect(card.locator(".bars li")).to_have_count(3)
    expect(card.locator(".notes")).to_contain_text("PNG, 60 x 40 pixels; cut to the middle square")
    assert card.locator(".seen").evaluate("image => image.naturalWidth") == 32
    expect(page.get_by_role("status")).to_contain_text("Answer: automobile")


def test_several_pictures_one_of_them_bad(page, files, provoked):
    provoked.append("status of 422")
    page.set_input_files("#files", [files["car"], files["bad"], files["bird"]])
    expect(page.locator("#results article")).to_have_count(3)
    expect(page.get_by_role("status")).to_have_text("2 answers. 1 could not be read.")
    assert answers(page) == ["automobile", "bad.png", "bird"]
    expect(page.locator(".card.error")).to_contain_text("not a picture that can be read")
    page.click("#clear")
    assert answers(page) == []


def test_too_many_pictures_are_not_sent(page, files):
    page.set_input_files("#files", [files[name] for name in ("car", "bad", "bird", "small")])
    expect(page.get_by_role("status")).to_contain_text("at most 3")
    assert answers(page) == []


def test_pictures_are_dropped_and_pasted(page):
    for kind, place in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([kind, place]) => {
                const blob = await (await fetch("static/samples/ship.png")).blob();
                const transfer = new DataTransfer();
                transfer.items.add(new File([blob], "ship.png", {type: "image/png"}));
                const event = kind === "drop"
                    ? new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true})
                    : new ClipboardEvent(kind, {clipboardData: transfer, bubbles: true});
                document.getElementById("drop").dispatchEvent(event);
            }""",
            [kind, place],
        )
    expect(page.locator("#results article")).to_have_count(2)


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(20_000_001)
    page.set_input_files("#files", large)
    expect(page.locator(".card.error")).to_contain_text("at most 20 MB")


def test_another_model_answers_again_and_says_none_of_the_ten(page, files):
    page.set_input_files("#files", files["bird"])
    expect(page.locator("#results h3")).to_have_text("bird")
    expect(page.locator(".by")).to_have_text("by kind/model")
    page.select_option("#model", index=1)
    expect(page.locator("#results h3")).to_have_text("None of the ten")
    expect(page.locator(".by")).to_contain_text("by strict/")
    expect(page.locator(".none")).to_have_text("unlike what it was trained on")
    expect(page.locator(".verdict")).to_contain_text("If it had to choose: bird")


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    names = []
    for _ in range(30):
        names.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if "sample" in names[-1]:
            break
        page.keyboard.press("Tab")
    assert "files" in names
    assert "model" in names
    page.keyboard.press("Enter")
    explain = page.locator(".explain")
    expect(explain).to_be_visible()
    for _ in range(30):
        page.keyboard.press("Tab")
        if explain.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(explain).to_have_text("Where it looked (Grad-CAM)", timeout=60_000)
    expect(page.locator(".overlay")).to_be_visible()
    expect(explain).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".overlay")).to_be_hidden()
    assert explain.get_attribute("aria-pressed") == "false"


def test_the_card_of_a_model_opens(page):
    with page.expect_popup() as opened:
        page.click("#card")
    expect(opened.value.locator("body")).to_contain_text("# The card")
    opened.value.close()


def test_the_camera_takes_a_picture(page):
    page.click("#camera")
    expect(page.locator("#video")).to_be_visible()
    expect(page.locator("#shoot")).to_be_focused()
    assert Axe().run(page).violations_count == 0
    page.click("#shoot")
    expect(page.locator("#results article .notes")).to_contain_text("PNG")
    page.click("#stop")
    expect(page.locator("#camera-view")).to_be_hidden()
    expect(page.locator("#camera")).to_be_focused()
    page.click("#camera")
    page.click("#shoot")
    expect(page.locator("#results article")).to_have_count(2)


def test_a_busy_server_is_asked_again(page, files, provoked):
    provoked.append("status of 503")
    refusals = []

    def busy(route):
        if len(refusals) < 2:
            refusals.append(route)
            headers = {"Retry-After": "1"}
            route.fulfill(status=503, headers=headers, json={"error": "busy"})
        else:
            route.fallback()

    page.route("**/api/predict?*", busy)
    page.set_input_files("#files", files["car"])
    expect(page.get_by_role("status")).to_contain_text("trying again in 1 s")
    expect(page.locator("#results h3")).to_have_text("automobile")
    assert len(refusals) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_is_accessible_and_fits(chromium, address, files, scheme, width):
    page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in ("", "api"):
        page.goto(address + path)
        if not path:
            page.set_input_files("#files", [files["car"], files["bad"]])
            expect(page.locator(".card.error")).to_have_count(1)
            page.click(".explain")
            expect(page.locator(".overlay").first).to_be_visible(timeout=60_000)
            page.click("summary >> visible=true")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_server_that_is_gone_is_said_to_be(page, files, provoked):
    provoked.append("ERR_FAILED")
    page.route("**/api/predict?*", lambda route: route.abort())
    page.set_input_files("#files", files["car"])
    expect(page.locator(".card.error")).to_contain_text("cannot be reached")
