"""Settings as people write them in YAML: numbers are numbers, merge keys are read, and whatever is no YAML ends in one line."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from isogrid.core.errors import InputError
from isogrid.study.spec import Spec
from isogrid.study.spec.reading import PRESETS, preset_data, read_yaml


def read(folder: Path, text: str):
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    return read_yaml(folder / "s.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1), ("1E-3", 0.001), ("+5e2", 500.0), ("-1e+2", -100.0), (".5", 0.5), ("1.", 1.0), ("0.1", 0.1), ("1.5e-3", 0.0015),
        ("8/255", 8 / 255), ("0.5/255", 0.5 / 255), ("010", 10), ("4_000", 4000), ("0x1F", 31), ("0o17", 15), ("-3", -3), ("0", 0),
        (".inf", float("inf")),
    ],
)  # fmt: skip
def test_numbers_are_numbers_however_they_are_written(tmp_path, text, value):
    found = read(tmp_path, f"eps: {text}\nlist: [{text}, {text}]\n")
    assert found == {"eps": value, "list": [value, value]}
    assert type(found["eps"]) is type(value)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**12), 10**12)))
def test_what_python_prints_is_read_back(tmp_path_factory, number):
    folder = tmp_path_factory.getbasetemp()
    for text in (repr(number), f"{number:e}" if isinstance(number, float) else str(number)):
        found = read(folder, f"n: {text}\n")["n"]
        assert found == (float(text) if isinstance(number, float) else int(text))
        assert type(found) is type(number)


@pytest.mark.parametrize("text", ["2024-01-01", "12:30:00", "1.2.3", "1/0", "1e", "e5", "1/2/3", "'1e-1'", "lenet-5", "0.1.npz", "1e5x"])
def test_text_stays_text(tmp_path, text):
    assert read(tmp_path, f"name: {text}\n") == {"name": text.strip("'")}


def test_merge_keys_are_read_and_what_overrides_them_is_no_duplicate(tmp_path):
    found = read(
        tmp_path,
        "base: &base {name: pgd, eps: 0.1, steps: 5}\nwide: &wide {<<: *base, eps: 0.2}\n"
        "attacks: [{<<: *wide, steps: 7}, {<<: [*wide, *base], label: b}, *base]\n",
    )
    assert found["attacks"] == [
        {"name": "pgd", "eps": 0.2, "steps": 7},
        {"name": "pgd", "eps": 0.2, "steps": 5, "label": "b"},
        {"name": "pgd", "eps": 0.1, "steps": 5},
    ]
    assert found["base"] == {"name": "pgd", "eps": 0.1, "steps": 5}


@pytest.mark.parametrize("text", ["seeds: 1\nseeds: 2", "a: {b: 1, 'b': 2}", "a: &x {n: 1}\nb: {<<: *x, n: 2, n: 3}", "1: a\n1: b"])
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="stands twice"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "a: " + "{b: " * 3000,
        "? [1, 2]\n: 3",
        "{[1]: 2}",
        "a: !!python/object:os.system x",
        "\0",
        "!!int x",
        "a: *b",
        "<<: 3",
        "!!float ''",
    ],
)
def test_text_that_breaks_the_parser_is_one_line(tmp_path, text):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert caught.value.field == "study"
    assert "\n" not in str(caught.value)


def test_damaged_files_give_data_or_one_line(tmp_path):
    """Thousands of mutations of a real study: nothing but InputError comes out of the reader."""
    numbers, whole = random.Random(0), (yaml.safe_dump(preset_data("quick")) + "x: &a {<<: {b: 1e-1}}\ny: *a\n").encode()
    refused = 0
    for _ in range(1500):
        raw = bytearray(whole)
        for _ in range(numbers.randint(1, 6)):
            place = numbers.randrange(len(raw))
            raw[place : place + numbers.choice((0, 1, 1, 4))] = bytes(
                numbers.choice(b"{}[]:,&*!|>%@`'\"#-? \n\t\0\xff<1e/_.") for _ in range(numbers.randint(0, 3))
            )
        (tmp_path / "s.yaml").write_bytes(raw)
        with contextlib.suppress(InputError):
            read_yaml(tmp_path / "s.yaml")
            refused -= 1
        refused += 1
    assert 300 < refused < 1500


def test_folders_and_missing_files_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(InputError, match=r"^study: got "):
            read_yaml(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"), ("# nothing but a comment\n", "is empty"), ("~", "is empty"), ("false", "holds False"), ("0", "holds 0"),
        ("[]", r"holds \[\]"), ("''", "holds ''"), ("quick", "holds 'quick'"),
    ],
)  # fmt: skip
def test_what_is_no_mapping_is_no_study(tmp_path, text, said):
    with pytest.raises(InputError, match=rf"^study: got .*s\.yaml, which {said}; accepted: a YAML mapping"):
        read(tmp_path, text)
    with pytest.raises(InputError, match=said):
        Spec.read(tmp_path / "s.yaml")


@pytest.mark.parametrize("rounds", ["None", None, 3])
def test_everything_that_is_accepted_is_listed(rounds):
    with pytest.raises(InputError, match=r"^control\.rounds: got .*; accepted: a list or 'all' or 'none'$"):
        Spec.parse({"control": {"rounds": rounds}})
    with pytest.raises(InputError, match=r"^control\.rounds\.0: got x; accepted: a valid integer"):
        Spec.parse({"control": {"rounds": ["x"]}})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read_by_the_same_rules(name):
    assert preset_data(name)["name"] == name
