import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

VARIABLE = "CIFAR_UTILS_CHROMIUM"
CHROMIUM = os.environ.get(VARIABLE) or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out the tests in a browser where there is none; fail if they were asked for."""
    browser = [item for item in items if item.get_closest_marker("browser")]
    if not browser or CHROMIUM:
        return
    if "browser" in config.getoption("markexpr"):
        raise pytest.UsageError(
            f"the tests marked browser need Chromium: install it, or name it with {VARIABLE}"
        )
    config.hook.pytest_deselected(items=browser)
    items[:] = [item for item in items if item not in browser]


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
