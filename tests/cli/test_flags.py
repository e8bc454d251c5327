"""Flags over a study: what `--data` says is read by the one parser of data, and nothing of a path is lost."""

from __future__ import annotations

import numpy as np
import pytest

from isogrid.cli.flags import specification

FLAGS = ("data", "model", "classes", "weights", "method", "rounds", "seeds", "attacks", "eps")


def spec_of(**flags):
    return specification(None, None, dict.fromkeys(FLAGS) | {"device": "cpu"} | flags)


@pytest.mark.parametrize("name", ["{}/run=3/d.npz", "npz:{}/run=3/d.npz", "{}/run=3/d.npz:box=0.0..2.0"])
def test_the_name_of_data_stays_whole(tmp_path, name):
    (tmp_path / "run=3").mkdir()
    np.savez(tmp_path / "run=3" / "d.npz", x=np.random.default_rng(0).random((50, 8)), y=np.arange(50) % 2)
    text = name.format(tmp_path)
    assert spec_of(data=text).data.name == text
    cut = spec_of(data=text + (",train=30" if "box" in text else ":train=30"))
    assert (cut.data.name, cut.data.train) == (text, 30)


def test_options_of_the_data_reach_their_fields():
    spec = spec_of(data="digits:train=100,test=40,classes=1+7")
    assert (spec.data.name, spec.data.train, spec.data.test) == ("digits", 100, 40)
    assert spec.models[0].classes == (1, 7)
    assert spec_of(data="digits:classes=1+7", classes="3,5").models[0].classes == (3, 5)


def test_fewer_rounds_attack_the_control_at_the_new_last_one():
    def rounds(asked):
        return specification(None, "quick", dict.fromkeys(FLAGS) | {"device": "cpu", "rounds": asked}).control_rounds

    assert [rounds(k) for k in (14, 12, 6, 2, 0)] == [(3, 6, 10, 14), (3, 6, 10, 12), (3, 6), (2,), ()]
