"""One thread a worker: the suite runs two workers, and tiny models only lose time on more. And the last line of a run
says how many tests it left out, with xdist too."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.environ.get("C4D_TEST_DEVICE"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, by whichever test that is

import pytest
import torch

from tests.sampled import thinned

torch.set_num_threads(1)


class LeftOut:
    """Workers tell how many tests they were not to run (all the same), and pytest's last line counts them."""

    def __init__(self, config: pytest.Config):
        self.config, self.count = config, 0

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.count += len(items)

    def pytest_sessionfinish(self) -> None:
        if (told := getattr(self.config, "workeroutput", None)) is not None:
            told["left out"] = self.count

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and "deselected" not in reporter.stats:
            left_out = getattr(node, "workeroutput", {}).get("left out", 0)
            reporter.stats["deselected"] = [SimpleNamespace() for _ in range(left_out)]


@pytest.hookimpl(tryfirst=True, specname="pytest_collection_modifyitems")  # before those that are not run are out
def pytest_thin(items: list[pytest.Item]) -> None:
    thinned(items)


@pytest.hookimpl(trylast=True)  # when those that are not run are out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with something slow come first: what a worker begins last should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeftOut(config))
