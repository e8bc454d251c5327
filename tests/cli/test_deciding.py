"""`isogrid certify --model net.onnx [--property p.vnnlib]`: verdicts, the counterexample as a file, and one line for what is wrong."""

from __future__ import annotations

import json
import re
import sys

import onnxruntime
import pytest
import torch

from isogrid import data
from isogrid.cli import main
from tests.certify.vnnlib_texts import version_1
from tests.models.onnx_nets import constant, node, saved


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network whose logits are x_0 + x_1 - 1 and 0, and properties that hold, are violated, or are no robustness property."""
    folder = tmp_path_factory.mktemp("property")
    weight, bias = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).numpy(), torch.tensor([-1.0, 0.0]).numpy()
    saved(folder / "net.onnx", [node("Gemm", "x", weight, bias)], (2,))
    (folder / "holds.vnnlib").write_text(version_1([0.6, 0.6], [0.8, 0.8], 0, 2))
    (folder / "violated.vnnlib").write_text(version_1([0.3, 0.5], [0.7, 0.9], 0, 2))
    (folder / "other.vnnlib").write_text(version_1([0.3, 0.5], [0.7, 0.9], 0, 2, "(assert (>= Y_1 0.5))"))
    return folder


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["certify", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def test_verdicts(capsys, files):
    for name in ("holds", "violated"):
        code, out, err = call(capsys, "--model", files / "net.onnx", "--property", files / f"{name}.vnnlib")
        assert code == 0, err
        assert out.startswith(f"{name}: class 0 within 0.")
    code, out, _ = call(capsys, "--model", files / "net.onnx", "--property", files / "holds.vnnlib", "--json", "--methods", "ibp,crown")
    found = json.loads(out)
    assert (code, found["verdict"], found["class"], found["counterexample"]) == (0, "holds", 0, None)
    assert found["eps"] == pytest.approx(0.1)


def test_the_counterexample_is_written_with_every_digit(capsys, files, tmp_path):
    code, out, err = call(
        capsys, "--model", files / "net.onnx", "--property", files / "violated.vnnlib", "--out", tmp_path / "ce", "--json", "--exact", 5
    )
    assert code == 0, err
    text = (tmp_path / "ce" / "counterexample.txt").read_text()
    assert json.loads(out)["counterexample"].endswith("counterexample.txt")
    values = {name: float(value) for name, value in re.findall(r"\(([XY]_\d+) ([^\s()]+)\)", text)}
    x = torch.tensor([[values["X_0"], values["X_1"]]], dtype=torch.float64)
    assert torch.equal(x.float().double(), x)
    assert 0.3 <= values["X_0"] <= 0.7
    assert 0.5 <= values["X_1"] <= 0.9
    (z,) = onnxruntime.InferenceSession(str(files / "net.onnx")).run(None, {"x": x.float().numpy()})
    assert z[0].tolist() == [values["Y_0"], values["Y_1"]]
    assert z[0, 1] >= z[0, 0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--property", "other.vnnlib"), "property"),
        (("--property", "nowhere.vnnlib"), "existing"),
        (("--property", "holds.vnnlib", "--eps", "0.1"), "eps"),
        (("--property", "holds.vnnlib", "--data", "digits"), "data"),
        (("--property", "holds.vnnlib", "--methods", "crwn"), "crown"),
        (("--property", "holds.vnnlib", "--exact", "-1"), "exact"),
        (("--data", "digits"), "shape"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(capsys, files, arguments, said):
    arguments = [files / word if word.endswith(".vnnlib") else word for word in arguments]
    code, _, err = call(capsys, "--model", files / "net.onnx", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_only_onnx_files_have_properties(capsys, files):
    code, _, err = call(capsys, "--model", "linear", "--property", files / "holds.vnnlib")
    assert (code, err.count("\n")) == (2, 1)
    assert ".onnx" in err


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "vnnlib"])
def test_without_the_extra_one_line_names_it(capsys, files, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = call(capsys, "--model", files / "net.onnx", "--property", files / "holds.vnnlib")
    assert (code, err.count("\n")) == (2, 1)
    assert "isogrid[onnx]" in err


def test_brackets_of_an_onnx_file_on_data(capsys, tmp_path):
    shape = data.load("digits", test=10).test.shape
    layers = [node("Flatten", "x", outputs=("h",)), node("Gemm", "h", constant(64, 10))]
    path = saved(tmp_path / "net.onnx", layers, shape, batch=1)
    code, out, err = call(capsys, "--model", path, "--data", "digits", "--samples", 10, "--norm", "linf", "--json")
    assert code == 0, err
    assert json.loads(out)["norms"]["linf"]["samples"] == 10
