"""What a user's "file.py:name" may be, and the one line that anything else ends in."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from isogrid.core.errors import InputError
from isogrid.core.sources import of_file
from isogrid.core.targets import at_home, load_target, source_digest


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
    "target",
    ["", "math", ":hypot", "math:", "no.such.module:thing", "missing.py:thing", ".:thing", "math:nothing_like_it", "a b:c", "\0.py:x",
     None, 3, Path("a.py")],
)  # fmt: skip
def test_other_targets_are_refused(target: object) -> None:
    with pytest.raises(InputError) as caught:
        load_target("factory", target)
    assert str(caught.value).startswith("factory: got")
    assert "\n" not in str(caught.value)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files below the working folder, a text each."""
    monkeypatch.chdir(tmp_path)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py").replace("/init", "/__init__")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


LEAF = "WIDTH = {}\n"
NEIGHBOURS = {
    "beside": ("net.py:WIDTH", {"net": "from layers import WIDTH\n", "layers": LEAF}),
    "through another": ("net.py:WIDTH", {"net": "import a\nWIDTH = a.b.WIDTH\n", "a": "import b\n", "b": LEAF}),
    "in a package beside": ("net.py:WIDTH", {"net": "from parts.one import WIDTH\n", "parts__init": "", "parts__one": LEAF}),
    "in a folder beside": ("net.py:WIDTH", {"net": "from parts import one\nWIDTH = one.WIDTH\n", "parts__one": LEAF}),
    "by the package's file": (
        "net.py:WIDTH",
        {"net": "from parts import WIDTH\n", "parts__init": "from .one import *\n", "parts__one": LEAF},
    ),
    "in its own package": (
        "pkg/net.py:WIDTH",
        {"pkg__init": "", "pkg__net": "from .sub.one import WIDTH\n", "pkg__sub__init": "", "pkg__sub__one": LEAF},
    ),
    "beside, in a package": ("pkg/net.py:WIDTH", {"pkg__init": "", "pkg__net": "from layers import WIDTH\n", "pkg__layers": LEAF}),
    "by a module's name": (
        "pkg.net:WIDTH",
        {"pkg__init": "", "pkg__net": "from . import one\nWIDTH = one.WIDTH\n", "pkg__one": LEAF},
    ),
    "by a module's name, without __init__": ("nets.net:WIDTH", {"nets__net": "from nets.one import WIDTH\n", "nets__one": LEAF}),
    "the module itself": ("lone:WIDTH", {"lone": LEAF}),
    "when it is called": ("net.py:make", {"net": "def make():\n    from layers import WIDTH\n    return WIDTH\n", "layers": LEAF}),
}


def value_of(target: str) -> object:
    found = load_target("factory", target)
    with at_home(target):
        return found() if callable(found) else found


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_a_file_imports_its_neighbours_with_their_present_contents(write, kind):
    """Rewritten within a second, in equal length: neither a former import nor compiled code may stand for the new text."""
    target, files = NEIGHBOURS[kind]
    before, digests = list(sys.path), []
    for width in (10, 20, 10, 30):
        write(**{name: text.format(width) for name, text in files.items()})
        digests.append(source_digest(target))
        assert value_of(target) == width
        assert value_of(target) == width
        assert source_digest(target) == digests[-1]
    assert digests[0] == digests[2]
    assert len(set(digests)) == 3
    assert sys.path == before


@pytest.mark.parametrize("kind", [kind for kind in NEIGHBOURS if kind not in ("by a module's name", "the module itself")])
def test_two_projects_keep_their_own_neighbours(write, tmp_path, monkeypatch, kind):
    target, files = NEIGHBOURS[kind]
    for folder, width in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        write(**{f"{folder}__{name}": text.format(width) for name, text in files.items()})
    for folder, width in (("one", 1), ("two", 2), ("one", 1), ("two", 2)):
        monkeypatch.chdir(tmp_path / folder)
        assert value_of(target) == width
        if target.endswith(".py"):
            assert value_of(f"{tmp_path / folder}/{target}") == width


def test_unchanged_code_is_one_and_the_same_object(write):
    write(layers="class Block: pass\n", net="from layers import Block\n", other="from layers import Block\n")
    first = load_target("factory", "net.py:Block")
    assert load_target("factory", "net.py:Block") is first
    assert load_target("factory", "other.py:Block") is first
    assert load_target("factory", "layers:Block") is first
    write(net="from layers import Block\n# changed\n")
    assert load_target("factory", "net.py:Block") is first


def test_what_has_been_imported_under_the_name_by_somebody_else_is_back_afterwards(write, monkeypatch):
    write(layers="WIDTH = 3\n", net="from layers import WIDTH\n")
    theirs = types.ModuleType("layers")
    monkeypatch.setitem(sys.modules, "layers", theirs)
    for _ in range(2):
        assert load_target("factory", "net.py:WIDTH") == 3
        assert sys.modules["layers"] is theirs


def test_a_program_that_has_imported_the_module_gets_that_module(write, tmp_path, monkeypatch):
    write(pkgs__init="", pkgs__mine="class Net: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = importlib.import_module("pkgs.mine")
    assert load_target("factory", "pkgs.mine:Net") is theirs.Net


def test_the_standard_library_and_installed_packages_stay_in_force(write):
    write(
        random="raise AssertionError\n",
        net="import random, numpy\nfrom safetensors import torch\nwidth = random.random() < 2\n",
        torch="WIDTH = 1\n",
    )
    (Path.cwd() / "numpy").mkdir()
    assert load_target("factory", "net.py:width")
    assert set(of_file(Path("net.py")).modules()) == set()
    digest = source_digest("net.py:width")
    (Path.cwd() / "random.py").write_text("changed = 1\n")
    assert source_digest("net.py:width") == digest


def test_code_that_cannot_be_read_or_ends_the_program_is_one_line(write):
    write(net="from layers import x\n", layers="def x(:\n", ends="import sys\nsys.exit(3)\n", up="from .layers import x\n")
    for target, said in (
        ("net.py:x", "SyntaxError"),
        ("ends.py:x", "SystemExit"),
        ("up.py:x", r"package\.module:name"),
        ("none.here:x", "ModuleNotFound"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            load_target("factory", target)
        assert "\n" not in str(caught.value)
        assert source_digest(target) or target == "none.here:x"


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_no_target_but_raises_nothing_else(place, name):
    source_digest(f"{place}:{name}")
    with contextlib.suppress(InputError):
        load_target("factory", f"{place}.py:{name}")
