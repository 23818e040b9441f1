"""What ``pytest --nbval-lax notebooks`` needs: a place to write, and no noise in the comparison."""

import os
import tempfile
from pathlib import Path

import pytest

from tools import notebooks


def pytest_configure(config: pytest.Config) -> None:
    """Give the kernels, which inherit the environment, one folder for all notebooks.

    Later notebooks find there what the earlier ones left.
    """
    folder = tempfile.TemporaryDirectory(prefix="nbval-")
    config.add_cleanup(folder.cleanup)
    os.environ.update(notebooks.smoke_environment(Path(folder.name)))


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leave stderr, where drivers write as they please, out of the comparison."""
    if collector.name.endswith(".ipynb"):
        collector.skip_compare += ("stderr",)
