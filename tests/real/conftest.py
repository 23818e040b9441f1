import os

import pytest

VARIABLE = "CIFAR_UTILS_TEST_DATA"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out the tests on real images where there are none; fail if they were asked for."""
    real = [item for item in items if item.get_closest_marker("real_data")]
    if not real or os.environ.get(VARIABLE):
        return
    # Those that `-m` leaves are wanted if it names the marker at all.
    if "real_data" in config.getoption("markexpr"):
        raise pytest.UsageError(
            f"the tests marked real_data need real images: set {VARIABLE} to a folder with the "
            "unpacked CIFAR-10 archive"
        )
    config.hook.pytest_deselected(items=real)
    items[:] = [item for item in items if item not in real]


@pytest.fixture(scope="session")
def real_folder():
    """The folder with the unpacked archive, as the environment names it."""
    return os.environ[VARIABLE]
