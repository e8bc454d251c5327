"""The command line: what it prints, where it stops, and that every command explains itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from isogrid.cli import main
from isogrid.cli.listing import catalogue
from isogrid.core.files import save_tensors
from isogrid.data import parse
from isogrid.models import build
from isogrid.study.spec import Spec

COMMANDS = ("run", "attack", "certify", "report", "list")


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"isogrid {command}" in out.split("Example", 1)[1]


def test_list_names_the_registries(capsys):
    code, out, _ = call(capsys, "list", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"data", "models", "methods", "attacks", "composed attacks", "certificates", "presets"}
    assert {"fgs", "rfgs", "pgd", "deepfool", "cw"} <= set(found["attacks"])
    assert {"quick", "paper-mnist", "paper-cifar"} == set(found["presets"])
    assert all(line for kind in found.values() for line in kind.values())
    assert "mnist-5k" in call(capsys, "list")[1]


def test_what_is_listed_is_accepted():
    listed = catalogue()
    for method in listed["methods"]:
        Spec.parse({"pruning": {"method": method}})
    for model in listed["models"]:
        assert build(model, (3, 32, 32), 10)
    for name in listed["presets"]:
        assert Spec.preset(name)
    for name in listed["data"]:
        assert parse(name if name not in ("npz", "folder", "torchvision") else f"{name}:x").name == name


def test_a_dry_run_writes_nothing(capsys, tmp_path):
    out = tmp_path / "study"
    code, shown, _ = call(capsys, "run", "--model", "linear", "--data", "digits", "--rounds", "2", "--dry-run", "--json", "--out", str(out))
    plan = json.loads(shown)
    assert code == 0
    assert plan["seconds"] > 0
    assert plan["bytes"] > 0
    assert plan["kinds"]["train"]["tasks"] == 3 * (3 + 2), "three seeds: levels 0 to 2, and rounds 1 and 2 of the dense control"
    assert not out.exists()


def test_a_study_from_flags_and_its_report(capsys, tmp_path):
    out = tmp_path / "study"
    flags = ["--model", "linear", "--data", "digits:train=300,test=100", "--rounds", "2", "--seeds", "2", "--attacks", "fgs,deepfool"]
    code, shown, err = call(capsys, "run", *flags, "--eps", "0.05,0.1", "--out", str(out), "--workers", "2")
    assert code == 0, err
    assert (out / "report.html").is_file()
    assert "about" in err
    assert "linear" in shown
    resolved = yaml.safe_load((out / "study.yaml").read_text())
    assert resolved["data"] == {"name": "digits", "box": None, "train": 300, "test": 100}
    assert resolved["attacks"][0]["parameters"]["eps"] == [0.05, 0.1]
    before = (out / "frontier.csv").read_bytes()
    (out / "report.html").unlink()
    assert call(capsys, "report", str(out))[0] == 0
    assert (out / "report.html").is_file()
    assert (out / "frontier.csv").read_bytes() == before


def test_attack_prints_the_table_of_one_model(capsys, tmp_path):
    network = build("lenet-300-100", (1, 8, 8), 10, 0)
    save_tensors(tmp_path / "net.safetensors", network.state_dict())
    arguments = ["--model", "lenet-300-100", "--weights", str(tmp_path / "net.safetensors"), "--data", "digits", "--samples", "60"]
    code, out, _ = call(
        capsys, "attack", *arguments, "--attacks", "fgs,deepfool", "--eps", "0.1", "--json", "--out", str(tmp_path / "records")
    )
    found = json.loads(out)
    assert code == 0
    assert [attack["id"] for attack in found["attacks"]] == ["fgs@0.1", "deepfool"]
    assert found["samples"] == 60
    assert (tmp_path / "records" / "deepfool.parquet").is_file()
    words = call(capsys, "attack", *arguments, "--attacks", "fgs")[1].split()
    assert words[words.index("fgs") : words.index("fgs") + 3] == ["fgs", "linf", "0.1"]


@pytest.mark.parametrize("command", ["run", "attack"])
@pytest.mark.parametrize("eps", ["inf", "nan", "0.1,-inf", "1e999"])
def test_a_budget_that_is_no_number_is_refused_in_one_line(capsys, tmp_path, command, eps):
    given = {"run": ["--out", str(tmp_path / "out")], "attack": ["--data", "digits"]}[command]
    code, out, err = call(capsys, command, "--model", "linear", *given, "--attacks", "fgs,rfgs,pgd,noise", "--eps", eps, "--json")
    assert code == 2
    assert err.startswith("error: eps: got ")
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "out").exists()


def test_names_that_look_like_markup_are_printed_as_they_are(capsys, tmp_path):
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"name": "[bold]mine", "data": {"name": "digits", "train": 100, "test": 20}, "models": ["linear"],
                        "training": {"epochs": 1}, "pruning": {"rounds": 0}, "attacks": ["fgs"], "seeds": 1})
    )  # fmt: skip
    out = tmp_path / "[red]out"
    code, shown, _ = call(capsys, "run", str(tmp_path / "study.yaml"), "--out", str(out), "--dry-run")
    assert code == 0
    assert "[bold]mine" in shown
    assert "[red]out" in shown.replace("\n", "")
    code, shown, err = call(capsys, "run", str(tmp_path / "study.yaml"), "--out", str(out), "--workers", "1")
    assert code == 0
    assert "[bold]mine: " in err
    for told in (shown, err):
        assert "[red]out" in told.replace("\n", "")
    assert "[red]out" in call(capsys, "report", str(out))[2].replace("\n", "")


def test_a_failing_study_ends_with_a_line_and_keeps_what_is_done(capsys, tmp_path):
    """A factory whose network turns to NaN after a few steps of training: level 0 fails, what needs it is skipped, the page says so."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer, self.steps = torch.nn.Linear(64, 10), 0\n"
        "    def forward(self, x):\n"
        "        z = self.layer(x.flatten(1))\n"
        "        self.steps += self.training\n"
        "        return z * float('nan') if self.training and self.steps > 60 else z\n"
    )
    out = tmp_path / "out"
    code, _, err = call(
        capsys, "run", "--model", f"{tmp_path / 'net.py'}:Net", "--data", "digits", "--rounds", "1", "--seeds", "1", "--attacks", "fgs",
        "--out", str(out), "--workers", "1",
    )  # fmt: skip
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "failed" in err


@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_an_interrupt_is_one_line_and_says_how_to_go_on(tmp_path, seconds):
    command = [sys.executable, "-m", "isogrid", "run", "--preset", "quick", "--out", str(tmp_path / "out")]
    usual = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - a test runner may ignore it
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=usual)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # the latter where not even the command line was loaded
    assert "Traceback" not in said or process.returncode != 130
    if seconds > 1:
        assert said.splitlines()[-1].startswith("interrupted; the same command continues")


def test_another_study_in_the_same_folder_is_said(tmp_path, capsys):
    small = ("run", "--data", "digits:train=100,test=40", "--model", "linear", "--attacks", "fgs", "--seeds", "1", "--rounds", "0")
    assert call(capsys, *small, "--out", str(tmp_path / "a"))[0] == 0
    code, _, said = call(capsys, *small, "--eps", "0.2", "--out", str(tmp_path / "a"))
    assert code == 0
    assert "held a study with other attacks" in " ".join(said.split())
    assert "held a study" not in call(capsys, *small, "--eps", "0.2", "--out", str(tmp_path / "a"))[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attacks: []", "attacks: got []; accepted: at least one attack"),
        ("seeds: 2\nseeds: 3", "the key 'seeds' stands twice"),
        ("attacks: [{eps: 0.1}]", "nothing"),
    ],
)
def test_settings_that_yaml_would_let_pass_are_refused(tmp_path, capsys, text, said):
    (tmp_path / "study.yaml").write_text(text)
    code, _, error = call(capsys, "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert said in error
    assert not (tmp_path / "out").exists()


def test_records_that_cannot_be_written_are_known_before_any_attack(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    save_tensors(tmp_path / "net.safetensors", build("linear", (1, 8, 8), 10, 0).state_dict())
    arguments = ("attack", "--model", "linear", "--weights", str(tmp_path / "net.safetensors"), "--data", "digits")
    code, _, error = call(capsys, *arguments, "--attacks", "autoattack", "--out", str(tmp_path / "file" / "x"))
    assert code == 2
    assert error.startswith("error: out: got ")


def test_reports_that_cannot_be_written_or_compared_are_one_line(tmp_path, capsys):
    code, _, error = call(capsys, "report", str(tmp_path), str(tmp_path))
    assert (code, error.count("\n")) == (2, 1)
    assert "different study folders" in error
