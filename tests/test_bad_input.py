"""Bad input of every kind ends in ONE clear line that names the field, and in exit code 2; nothing is written.

CASES is the list: the arguments of a command, with {d} for the folder that `kit` fills, and the field that the line must name. The same
list serves any runner of command lines (`main` here).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isogrid.cli import main
from isogrid.core.errors import InputError
from isogrid.core.files import save_tensors
from isogrid.models import build
from isogrid.report import build_report, compare
from isogrid.study.run import run_study
from isogrid.study.spec import Spec

NETS = """
import torch
from torch import nn
class Fixed(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.function = function
    def forward(self, x): return self.function(self.fc(x.flatten(1)))
def good(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def nan(): return Fixed(lambda z: z * float("nan"))
def cube(): return Fixed(lambda z: z[:, :, None, None])
def text(): return Fixed(lambda z: "logits")
def fails(): return Fixed(lambda z: 1 / 0)
def short(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
def wide(): return nn.Sequential(nn.Flatten(), nn.Linear(65, 10))
def bare(): return nn.Flatten()
def raises(): raise OSError("no such\\nweights")
def nothing(): return None
def needs(width): return nn.Linear(width, 10)
"""

STUDY = """
data: {name: digits, train: 100, test: 20}
models: [linear]
training: {epochs: 1, retrain_epochs: 1}
pruning: {rounds: 1}
twin: {rounds: none}
attacks: [{name: fgs, eps: 0.1}]
seeds: 1
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of bad input: `command` with {d} for the folder of the kit, and the `field` that its line names."""

    id: str
    command: str
    field: str


def data_cases() -> list[Case]:
    """Data that `isogrid run` must refuse."""
    kinds = [
        ("unknown-data", "mnst", "data"),
        ("missing-npz", "{d}/none.npz", "data"),
        ("missing-folder", "{d}/none/here", "data"),
        ("npz-without-labels", "{d}/no_y.npz", "data"),
        ("npz-wrong-dtype", "{d}/int32.npz", "data x"),
        ("npz-out-of-range", "{d}/range.npz", "data x"),
        ("npz-nan", "{d}/nan.npz", "data x"),
        ("npz-wrong-shape", "{d}/flat.npz", "data x"),
        ("npz-zero-samples", "{d}/empty.npz", "data x"),
        ("npz-zero-test-samples", "{d}/no_test.npz", "data x_test"),
        ("npz-label-length", "{d}/length.npz", "data y"),
        ("npz-negative-label", "{d}/negative.npz", "data y"),
        ("npz-float-labels", "{d}/float_y.npz", "data y"),
        ("npz-missing-class", "{d}/gap.npz", "data train"),
        ("npz-pickled", "{d}/pickled.npz", "data"),
        ("npz-corrupt", "{d}/corrupt.npz", "data"),
        ("idx-truncated", "mnist:{d}/truncated", "data"),
        ("idx-wrong-magic", "mnist:{d}/magic", "data"),
        ("idx-missing-file", "mnist:{d}/images", "data"),
        ("cifar-wrong-size", "cifar10:{d}/cifar", "data"),
        ("images-of-two-sizes", "{d}/images", "data"),
        ("images-of-one-class", "{d}/images/one", "data"),
        ("too-many-samples", "digits:train=5000", "data train"),
        ("zero-test-samples", "digits:test=0", "data.test"),
        ("unknown-data-option", "digits:tset=5", "data option"),
        ("label-not-there", "digits:classes=3+12", "data classes"),
        ("single-label", "digits:classes=3", "data classes"),
    ]
    return [Case(name, f"run {{d}}/study.yaml --data {data}", field) for name, data, field in kinds]


def model_cases() -> list[Case]:
    """Models and weights that either command must refuse."""
    nets = [(net, "model") for net in ("nan", "cube", "text", "fails", "wide", "raises", "nothing", "needs", "misspelt")] + [("short", "y")]
    given = (("run", "run {d}/study.yaml"), ("attack", "attack --data digits --attacks fgs"))
    return [
        *(Case(f"{kind}-model-{net}", f"{start} --model {{d}}/nets.py:{net}", field) for net, field in nets for kind, start in given),
        Case("unknown-model", "run {d}/study.yaml --model lenet-5000", "model"),
        Case("unknown-model-attacked", "attack --data digits --model linaer", "model"),
        Case("model-of-other-shape", "run {d}/study.yaml --model lenet-5", "model"),
        Case("missing-factory-file", "run {d}/study.yaml --model {d}/none.py:net", "model"),
        Case("factory-file-with-syntax-error", "run {d}/study.yaml --model {d}/broken.py:net", "model"),
        Case("nothing-to-prune", "run {d}/study.yaml --model {d}/nets.py:bare", "model"),
        Case("program-to-prune", "run {d}/study.yaml --model {d}/junk.pt2", "model"),
        Case("program-is-none", "attack --data digits --model {d}/junk.pt2", "model"),
        Case("program-missing", "attack --data digits --model {d}/none.pt2", "model"),
        Case("script-is-weights", "attack --data digits --model {d}/weights.pt", "model"),
        Case("untrained", "attack --data digits --model linear", "weights"),
        Case("missing-weights", "attack --data digits --model linear --weights {d}/none.safetensors", "weights"),
        Case("weights-of-other-shape", "attack --data digits --model linear --weights {d}/other.safetensors", "weights"),
        Case("weights-of-other-names", "run {d}/study.yaml --model lenet-300-100 --weights {d}/weights.pt", "weights"),
        Case("weights-nan", "run {d}/study.yaml --weights {d}/nan.safetensors", "weights"),
        Case("weights-pickled", "run {d}/study.yaml --weights {d}/pickle.pt", "weights"),
        Case("weights-pickle-in-disguise", "run {d}/study.yaml --weights {d}/pickle.safetensors", "weights"),
        Case("weights-of-two-models", "run {d}/study.yaml --model linear,lenet-300-100 --weights {d}/weights.pt", "weights"),
    ]


def setting_cases() -> list[Case]:
    """Attacks, numbers, files of settings, folders."""
    run, attack = "run {d}/study.yaml", "attack --data digits --model {d}/nets.py:good"
    return [
        Case("unknown-attack", f"{run} --attacks fgsm", "attack"),
        Case("unknown-attack-attacked", f"{attack} --attacks fgs,pdg", "attack"),
        Case("no-attack", f"{attack} --attacks ,", "attacks"),
        Case("eps-negative", f"{attack} --attacks fgs --eps -0.1", "eps"),
        Case("eps-nan", f"{attack} --attacks fgs --eps nan", "eps"),
        Case("eps-text", f"{run} --eps 0.1,big", "eps"),
        Case("eps-negative-run", f"{run} --eps -1", "eps"),
        Case("samples-zero", f"{attack} --samples 0", "data test"),
        Case("samples-too-many", f"{attack} --samples 5000", "data test"),
        Case("classes-text", f"{attack} --classes one,two", "classes"),
        Case("seeds-zero", f"{run} --seeds 0", "seeds"),
        Case("rounds-negative", f"{run} --rounds -1", "pruning.rounds"),
        Case("workers-zero", f"{run} --workers 0", "workers"),
        Case("unknown-device", f"{run} --device tpu", "device"),
        Case("unknown-method", f"{run} --method progresive", "pruning.method"),
        Case("unknown-preset", "run --preset quik", "preset"),
        Case("preset-and-study", f"{run} --preset quick", "preset"),
        Case("missing-study", "run {d}/none.yaml", "study"),
        Case("study-is-no-yaml", "run {d}/broken.yaml", "study"),
        Case("study-is-a-list", "run {d}/list.yaml", "study"),
        Case("unknown-key", "run {d}/unknown_key.yaml", "key"),
        Case("unknown-nested-key", "run {d}/nested_key.yaml", "key"),
        Case("wrong-type", "run {d}/wrong_type.yaml", "training.epochs"),
        Case("unknown-attack-parameter", "run {d}/attack_key.yaml", "attack fgs"),
        Case("attack-parameter-of-wrong-type", "run {d}/attack_type.yaml", "eps"),
        Case("unwritable-folder", f"{run} --out {{d}}/nets.py/out", "out"),
        Case("unwritable-records", f"{attack} --attacks fgs --out {{d}}/nets.py/out", "out"),
        Case("report-of-nothing", "report {d}/empty", "study"),
    ]


CASES = [*data_cases(), *model_cases(), *setting_cases()]
USAGE = [
    Case("unknown-flag", "run --atacks fgs", "--atacks"),
    Case("flag-of-wrong-type", "run --seeds three", "--seeds"),
    Case("unknown-command", "atack", "atack"),
    Case("missing-flag", "attack --data digits", "--model"),
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    d = tmp_path_factory.mktemp("bad")
    (d / "nets.py").write_text(NETS)
    (d / "broken.py").write_text("def net(:")
    (d / "empty").mkdir()
    _studies(d)
    _arrays(d)
    _official_files(d)
    _weights(d)
    for name, size in (("one/a", (4, 4)), ("two/b", (5, 4))):
        (d / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(d / "images" / f"{name}.png")
    (d / "images" / "one" / "sub").mkdir()
    return d


def _studies(d: Path) -> None:
    (d / "study.yaml").write_text(STUDY)
    (d / "broken.yaml").write_text("data: {name: digits\nmodels: ]")
    (d / "list.yaml").write_text("- data\n- models\n")
    (d / "unknown_key.yaml").write_text(STUDY + "atacks: []\n")
    (d / "nested_key.yaml").write_text(STUDY.replace("rounds: 1}", "rounds: 1, critrion: magnitude}"))
    (d / "wrong_type.yaml").write_text(STUDY.replace("epochs: 1,", "epochs: many,"))
    (d / "attack_key.yaml").write_text(STUDY.replace("eps: 0.1", "epsilon: 0.1"))
    (d / "attack_type.yaml").write_text(STUDY.replace("eps: 0.1", "eps: [0.1, big]"))


def _arrays(d: Path) -> None:
    x, y = np.zeros((20, 4, 4), dtype=np.uint8), np.arange(20) % 2
    bad: dict[str, dict[str, np.ndarray]] = {
        "no_y": {"x": x},
        "int32": {"x": x.astype(np.int32), "y": y},
        "range": {"x": x + 7.0, "y": y},
        "nan": {"x": x + np.nan, "y": y},
        "flat": {"x": x[:, 0, 0], "y": y},
        "empty": {"x": x[:0], "y": y[:0]},
        "no_test": {"x_train": x, "y_train": y, "x_test": x[:0], "y_test": y[:0]},
        "length": {"x": x, "y": y[:7]},
        "negative": {"x": x, "y": y - 1},
        "float_y": {"x": x, "y": y / 2},
        "gap": {"x": x, "y": y * 3},
        "pickled": {"x": np.array([{}] * 20, dtype=object), "y": y},
    }
    for name, arrays in bad.items():
        np.savez(d / f"{name}.npz", **arrays)
    raw = (d / "gap.npz").read_bytes()
    (d / "corrupt.npz").write_bytes(raw[: len(raw) // 2])


def _official_files(d: Path) -> None:
    for folder, raw in (("truncated", bytes([0, 0, 8, 3, *([0, 0, 0, 9] * 3)]) + bytes(50)), ("magic", b"PK\x03\x04" + bytes(60))):
        (d / folder).mkdir()
        (d / folder / "train-images-idx3-ubyte").write_bytes(raw)
    (d / "cifar").mkdir()
    for name in [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]:
        (d / "cifar" / name).write_bytes(bytes(3072))


def _weights(d: Path) -> None:
    state = build("linear", (1, 8, 8), 10).state_dict()
    torch.save(state, d / "weights.pt")
    save_tensors(d / "other.safetensors", build("linear", (1, 28, 28), 10).state_dict())
    save_tensors(d / "nan.safetensors", {name: value * torch.nan for name, value in state.items()})
    for name in ("pickle.pt", "pickle.safetensors", "junk.pt2"):
        (d / name).write_bytes(pickle.dumps({"1.weight": Path("x")}))


def test_there_are_at_least_thirty_kinds():
    assert len({case.id for case in CASES}) == len(CASES) >= 30


def line_of(command: str, kit: Path, folder: Path, capfd) -> str:
    """What the command says: one line on stderr, after which it exited with 2 and had written nothing in `folder`."""
    with pytest.raises(SystemExit) as caught:
        main(command.replace("{d}", str(kit)).split())
    printed = capfd.readouterr()
    assert caught.value.code == 2, printed.err
    lines = printed.err.rstrip("\n").split("\n")
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 700
    assert not printed.out
    assert not list(folder.iterdir()), "something was written"
    return lines[0].removeprefix("error: ")


@pytest.fixture
def folder(kit, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOGRID_DATA", str(kit / "empty"))
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bad_values_are_named_with_what_is_accepted(case, kit, folder, capfd):
    line = line_of(case.command, kit, folder, capfd)
    assert line.startswith(f"{case.field}: ")
    assert "accepted: " in line or line.startswith("model: forward raised")


@pytest.mark.parametrize("case", USAGE, ids=[case.id for case in USAGE])
def test_misspelt_commands_are_named(case, kit, folder, capfd):
    assert case.field in line_of(case.command, kit, folder, capfd)


@pytest.mark.parametrize(
    "command",
    [
        "run {d}/study.yaml",
        "run {d}/study.yaml --dry-run",
        "report {d}/empty",
        "report {d}/empty {d}/images",
        "attack --data digits --model {d}/nets.py:good",
        "certify --data digits --model {d}/nets.py:good",
        "certify --model {d}/net.onnx --property {d}/none.vnnlib",
    ],
)
def test_an_empty_path_is_no_folder(command, kit, folder, capfd):
    """It comes of a shell's variable that is not set, and is not the working folder."""
    line = line_of(f"{command} --out=", kit, folder, capfd)
    assert line.startswith("out: got ''; accepted: ")


def test_a_report_of_an_empty_path_is_not_that_of_the_working_folder(kit, folder, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["report", ""])
    assert capfd.readouterr().err.startswith("error: folder: got ''; accepted: ")
    for call in (build_report, lambda folder: run_study(Spec.parse({}), folder), lambda target: compare([kit, folder], target)):
        with pytest.raises(InputError, match=r": got ''; accepted: "):
            call("")
