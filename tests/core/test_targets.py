"""What a user's "file.py:name" may be, and the one line that anything else ends in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from isogrid.core.errors import InputError
from isogrid.core.targets import load_target


def test_a_file_runs_once_for_each_of_its_contents(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from dataclasses import dataclass\n\n\n@dataclass\nclass Thing:\n    value: int = 1\n")
    first = load_target("factory", f"{file}:Thing")
    assert first().value == 1
    assert load_target("factory", f"{file}:Thing") is first
    file.write_text("Thing = 2\n")
    assert load_target("factory", f"{file}:Thing") == 2
    assert "mine" not in sys.modules  # it takes no other module's name


def test_a_file_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise ValueError('no')\n")
    for _ in range(2):
        with pytest.raises(InputError, match=r"^factory: got .*ValueError: no"):
            load_target("factory", f"{file}:thing")
    assert not [name for name in sys.modules if "broken" in name and name.startswith("_isogrid")]


@pytest.mark.parametrize(
    "target", ["", "math", ":hypot", "math:", "no.such.module:thing", "missing.py:thing", ".:thing", "math:nothing_like_it"]
)
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(InputError) as caught:
        load_target("factory", target)
    assert str(caught.value).startswith("factory: got")
    assert "\n" not in str(caught.value)
