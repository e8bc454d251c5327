"""The table of `isogrid attack`: every name and every word of a header whole on a narrow terminal, no column without a figure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rich.console import Console

from isogrid.cli import main
from isogrid.cli.attacking import Row, attack_table
from isogrid.core.files import save_tensors
from isogrid.data import load
from isogrid.models import build
from isogrid.study.spec import AttackSpec

FIXED = {"r_inf": 0.1234, "zero_gradient": 0.0, "success_rate": 0.8}
MINIMAL = {"r_2": 1.2345, "median_distance": 1.1, "zero_gradient": 0.5}
HEADER = ("attack", "norm", "eps", "accuracy", "left", "mean", "size", "median", "failed", "zero", "gradient", "queries")


def rows(*entries, metrics=None):
    found = []
    for entry in entries:
        for identity, attack in AttackSpec.model_validate(entry).named():
            shown = metrics or (FIXED if attack.budget is not None else MINIMAL)
            found.append(Row(id=identity, attack=attack, metrics=shown, failures=123, queries=123456.0))
    return found


def shown(given, width):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(attack_table("lenet-300-100", load("digits").test, 0.9, given))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_every_name_and_every_word_of_the_header_is_whole(width):
    entries = ["fgs", {"name": "pgd", "norm": "l2", "eps": 0.125}, "superdeepfool", {"name": "minimise", "attack": {"name": "apgd-dlr"}}]
    entries += [{"name": "deepfool", "domain": "free"}, {"name": "pgd", "eps": 0.031372549, "label": "PGD, 200 steps"}]
    text = shown(rows(*entries), width)
    words = text.split()
    for word in (*HEADER, "fgs", "pgd-l2", "superdeepfool", "minimise-apgd-dlr", "0.125", "0.0313725", "deepfool", "free"):
        assert word in words
    assert "PGD, 200 steps" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_column_without_a_figure_is_left_out():
    fixed, minimal = shown(rows("fgs", "pgd"), 80).split(), shown(rows("deepfool", "ddn"), 80).split()
    assert "left" in fixed
    assert not {"mean", "median", "size"} & set(fixed)
    assert {"mean", "median", "size"} <= set(minimal)
    assert not {"left", "eps"} & set(minimal)


def test_a_void_mean_is_explained_below():
    text = shown(rows("deepfool", metrics=MINIMAL | {"r_2": math.inf}), 80)
    assert "void: more than 1 % of the attacks failed" in " ".join(text.split())


def test_a_model_called_like_markup_is_shown_as_it_is():
    console = Console(width=120)
    with console.capture() as capture:
        console.print(attack_table("[red]net.py:make", load("digits").test, 0.9, rows("fgs")))
    assert "[red]net.py:make" in capture.get()


def test_all_samples_of_a_users_own_data_are_attacked(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((50, 64)), y=np.arange(50) % 3)
    save_tensors(tmp_path / "net.safetensors", build("linear", (64,), 3).state_dict())
    given = ["--model", "linear", "--weights", str(tmp_path / "net.safetensors"), "--attacks", "fgs", "--json", "--no-audit"]
    for data, samples in ((f"{tmp_path}/d.npz", 50), (f"{tmp_path}/d.npz:test=7", 7)):
        with pytest.raises(SystemExit) as stopped:
            main(["attack", "--data", data, *given])
        assert not stopped.value.code
        assert json.loads(capsys.readouterr().out)["samples"] == samples
