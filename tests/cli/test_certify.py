"""`isogrid certify`: of an affine model everything is known; what is asked wrongly is said in one line."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from isogrid import data, models
from isogrid.cli import main
from isogrid.core.files import save_tensors
from isogrid.theory import box_distance, linear_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A linear model of the digits, by ridge regression: some pixels are never lit."""
    split = data.load("digits", test=50)
    net = models.build("linear", split.train.shape, split.train.classes, 0)
    x, target = split.train.x.flatten(1), torch.nn.functional.one_hot(split.train.y, split.train.classes).float()
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    solved = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ target)
    layer = next(module for module in net.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(solved[:-1].T)
        layer.bias.copy_(solved[-1])
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_tensors(path, net.state_dict())
    return path, net, split.test


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["certify", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def test_of_an_affine_model_both_ends_meet(capsys, weights, tmp_path):
    path, net, test = weights
    code, out, err = call(
        capsys, "--model", "linear", "--data", "digits", "--weights", path, "--samples", 30, "--out", tmp_path / "ends", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert set(found["norms"]) == {"linf", "l2"}
    W, b = linear_weights(net, test.shape)
    for norm, figures in found["norms"].items():
        assert figures["samples"] == 30
        frame = pd.read_parquet(tmp_path / "ends" / f"certificate-{norm}.parquet")
        exact = box_distance(W, b, test.x[:30], test.y[:30], norm).numpy()
        assert frame["lower"].to_numpy() == pytest.approx(exact, rel=1e-3)
        assert (frame["upper"].to_numpy() >= exact * (1 - 1e-4)).all()
        assert figures["tightness"] > 0.98


def test_at_an_eps_every_sample_is_certified_or_broken(capsys, weights):
    path, net, test = weights
    code, out, err = call(
        capsys, "--model", "linear", "--data", "digits", "--weights", path, "--samples", 30, "--norm", "linf", "--eps", 0.02, "--json"
    )
    assert code == 0, err
    figures = json.loads(out)["norms"]["linf"]
    exact = box_distance(*linear_weights(net, test.shape), test.x[:30], test.y[:30], "linf")
    assert figures == {"samples": 30, "certified": int((exact > 0.02).sum()), "broken": int((exact <= 0.02).sum()), "undecided": 0}
    _, out, _ = call(capsys, "--model", "linear", "--data", "digits", "--weights", path, "--samples", 10, "--norm", "linf", "--eps", 0.02)
    assert "undecided" in out


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--norm", "l1"), "norm"),
        (("--methods", "crwn"), "methods"),
        (("--eps", "-1"), "eps"),
        (("--exact", "0"), "exact"),
        (("--weights", "nowhere.safetensors"), "weights"),
    ],
)
def test_wrong_flags_are_one_line(capsys, arguments, field):
    code, _, err = call(capsys, "--model", "linear", "--data", "digits", *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert field in err
