"""Shared by all tests: one thread each (two run side by side), the recipes of the documentation, and the other libraries that they use."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from isogrid.engines import local

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _server() -> Iterator[None]:
    """A refusal on the command line ends the server that workers are forked from, and its process; here the next test wants it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "abandon", lambda: None)
        yield


@pytest.fixture(scope="session")
def recipe() -> Callable[..., str]:
    """(heading, language) -> the first code block under that heading of docs/recipes.md."""
    text = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")

    def block(title: str, language: str = "python") -> str:
        section = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
        found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
        assert found is not None
        return found.group(1)

    return block


@pytest.fixture(scope="session")
def peer() -> Callable[[str], None]:
    """Skips a test whose other library is not installed; in CI, where `make peers` has installed it, its absence is a failure."""

    def need(package: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's imports and deprecations
            (importlib.import_module if os.environ.get("CI") else pytest.importorskip)(package)

    return need
