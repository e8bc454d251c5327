"""The command line: what it prints, where it stops, and that every command explains itself."""

from __future__ import annotations

import json

import pytest
import yaml

from isogrid.cli import main
from isogrid.core.files import save_tensors
from isogrid.models import build

COMMANDS = ("run", "attack", "report", "list")


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
    assert set(found) == {"data", "models", "methods", "attacks", "composed attacks", "presets"}
    assert {"fgs", "rfgs", "pgd", "deepfool", "cw"} <= set(found["attacks"])
    assert {"quick", "paper-mnist"} == set(found["presets"])
    assert all(line for kind in found.values() for line in kind.values())
    assert "mnist-5k" in call(capsys, "list")[1]


def test_a_dry_run_writes_nothing(capsys, tmp_path):
    out = tmp_path / "study"
    code, shown, _ = call(capsys, "run", "--model", "linear", "--data", "digits", "--rounds", "2", "--dry-run", "--json", "--out", str(out))
    plan = json.loads(shown)
    assert code == 0
    assert plan["seconds"] > 0
    assert plan["bytes"] > 0
    assert plan["kinds"]["train"]["tasks"] == 3 * 3
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
    assert resolved["data"] == {"name": "digits", "train": 300, "test": 100}
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
    code, _, err = call(capsys, "run", str(tmp_path / "study.yaml"), "--out", str(out), "--workers", "1")
    assert code == 0
    assert "[bold]mine: " in err
    assert err.replace("\n", "").count("[red]out") == 2
    assert "[red]out" in call(capsys, "report", str(out))[2].replace("\n", "")


def test_a_failing_study_ends_with_a_line_and_keeps_what_is_done(capsys, tmp_path):
    """A factory whose network turns to NaN in training: level 0 fails, what needs it is skipped, the page says so."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        z = self.layer(x.flatten(1))\n"
        "        return z * float('nan') if self.training else z\n"
    )
    out = tmp_path / "out"
    code, _, err = call(
        capsys, "run", "--model", f"{tmp_path / 'net.py'}:Net", "--data", "digits", "--rounds", "1", "--seeds", "1", "--attacks", "fgs",
        "--out", str(out), "--workers", "1",
    )  # fmt: skip
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "failed" in err
