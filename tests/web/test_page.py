"""The page that says what is on pictures, in a real browser."""

import socket
import threading

import keras
import pytest
import waitress
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from cifar_utils import predict
from cifar_utils.web import app as web
from tests.unit.grey import flat, grey_network

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server with two models: one that knows everything, one that knows nothing."""
    keras.config.set_dtype_policy("float32")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    grey_network().save(path)
    sources = [
        predict.Source(name, path, 1.0, "highest probability", least)
        for name, least in (
            ("kind/model", 0.0),
            ("strict/model-of-a-run-with-a-long-name-05_resnet50_finetuned", 1.1),
        )
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    server = waitress.create_server(
        web.create(sources, web.Limits(most=3)), sockets=[listening], threads=4
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.close()
    thread.join(10)


@pytest.fixture
def page(chromium, address):
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
    expected = ("status of 4", "ERR_FAILED")  # which some of the tests provoke
    assert [text for text in problems if not any(each in text for each in expected)] == []
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


def test_several_pictures_one_of_them_bad(page, files):
    page.set_input_files("#files", [files["car"], files["bad"], files["bird"]])
    expect(page.locator("#results article")).to_have_count(3)
    assert answers(page) == ["bird", "bad.png", "automobile"]
    expect(page.locator(".card.error")).to_contain_text("not a picture that can be read")
    expect(page.get_by_role("status")).to_have_text("2 answers. 1 could not be read.")


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


def test_none_of_the_ten(page, files):
    page.select_option("#model", index=1)
    page.set_input_files("#files", files["bird"])
    expect(page.locator("#results h3")).to_have_text("None of the ten")
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
    expect(page.locator("#results article")).to_have_count(1)
    page.locator(".explain").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".explain")).not_to_have_text("Looking …", timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_is_accessible_and_fits(chromium, address, files, scheme, width):
    page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in ("", "api"):
        page.goto(address + path)
        if not path:
            page.set_input_files("#files", [files["car"], files["bad"]])
            expect(page.locator("#results article")).to_have_count(2)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_server_that_is_gone_is_said_to_be(page, files):
    page.route("**/api/predict/many*", lambda route: route.abort())
    page.set_input_files("#files", files["car"])
    expect(page.get_by_role("status")).to_contain_text("cannot be reached")
