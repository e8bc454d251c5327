"""The process from outside: busy folders, full disks, Ctrl-C, broken pipes, names that lead elsewhere. One line each, nothing half-done."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from isogrid.cli import main

STUDY = """
data: {name: digits, train: 100, test: 40}
models: [linear]
training: {epochs: 1, retrain_epochs: 1}
pruning: {rounds: 1}
control: {rounds: none}
attacks: [fgs]
seeds: 1
"""
SMALL = ["s.yaml", "--workers", "1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(STUDY)
    return tmp_path


def call(folder: Path, *arguments: str, limit: int = 0, **settings) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command in `folder`, which may write files of `limit` bytes at most."""

    def start() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    settings = {"stdout": subprocess.PIPE} | settings
    command = [sys.executable, "-m", "isogrid", *arguments]
    done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True, timeout=120, preexec_fn=start, **settings)
    return done.returncode, done.stdout, done.stderr


def the_line(said: str) -> str:
    assert "Traceback" not in said, said
    assert "Exception" not in said, said
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("error: "), said
    return last


@pytest.mark.parametrize("limit", [600, pytest.param(5_000, marks=pytest.mark.slow)])
def test_a_disk_that_takes_no_more_is_one_line_and_nothing_is_lost(folder, limit):
    """A limit of a file's size stands for a full disk: in the study's own files, in a level's weights, in the tables."""
    code, _, said = call(folder, "run", *SMALL, "--out", "o", limit=limit)
    assert code == 2
    assert os.strerror(errno.EFBIG) in the_line(said)
    assert "ulimit -f" in the_line(said)
    assert call(folder, "run", *SMALL, "--out", "o")[0] == 0
    if limit == 600:
        assert call(folder, "run", *SMALL, "--out", "whole")[0] == 0
        assert pd.read_csv(folder / "o" / "frontier.csv").equals(pd.read_csv(folder / "whole" / "frontier.csv"))


def test_a_busy_folder_is_one_line(folder):
    (folder / "o" / "cells").mkdir(parents=True)
    with (folder / "o" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        code, _, said = call(folder, "run", *SMALL, "--out", "o")
    assert code == 2
    assert "no other isogrid run" in the_line(said)
    assert len([line for line in said.splitlines() if line.startswith("error")]) == 1


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.8, 1.6, 3.0])
def test_an_early_interrupt_is_one_line(folder, seconds):
    start = "import isogrid.cli, sys; print('ready', flush=True); isogrid.cli.main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "run", *SMALL, "--out", "o"], cwd=folder, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130), said
    assert "Traceback" not in said
    if process.returncode == 130:
        assert said.splitlines()[-1].startswith("interrupted")


def test_output_that_nobody_takes_is_no_traceback(folder):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, _, said = call(folder, "list", "--json", stdout=writer)
    finally:
        os.close(writer)
    assert code in (0, 1)
    assert not said
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            code, _, said = call(folder, "list", "--json", stdout=full)
        assert code == 2
        assert "free some space" in the_line(said)


def test_a_folder_with_dots_is_where_it_leads(folder):
    code, _, said = call(folder, "run", *SMALL, "--out", "missing/../x")
    assert code == 0, said
    assert (folder / "x" / "report.html").is_file()
    assert not (folder / "missing").exists()
    (folder / "sub").mkdir()
    assert call(folder / "sub", "run", "../s.yaml", "--out", "../x", "--dry-run")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["s.yaml", "sub", "x"]


@pytest.mark.parametrize("name", ["../evil", "..", ".", "a/b", "/tmp/evil"])
def test_names_that_lead_out_of_the_folder_are_refused_before_the_work(folder, name, monkeypatch, capsys):
    (folder / "s.yaml").write_text(f"name: {name}{STUDY}")
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "s.yaml"])
    assert the_line(capsys.readouterr().err).startswith("error: name: got ")
    assert [path.name for path in folder.iterdir()] == ["s.yaml"]


LOUD = """
import os
import torch
from torch import nn
print("imported")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        print("forward")
        return self.fc(x.flatten(1))
def make():
    print("made")
    os.system("echo from a child process")
    return Net()
"""
GIVEN = "--model net.py:make --data digits:train=100,test=40"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(f"run s.yaml {GIVEN} --workers 1 --out o --json", marks=pytest.mark.slow),
        f"run s.yaml {GIVEN} --workers 1 --out o --dry-run --json",
        f"attack {GIVEN} --attacks fgs --json",
        f"certify {GIVEN} --samples 3 --json",
    ],
)
def test_what_user_code_prints_is_not_among_the_json(folder, command):
    (folder / "net.py").write_text(LOUD)
    code, out, said = call(folder, *command.split())
    assert code == 0, said
    assert isinstance(json.loads(out), dict)
    for word in ("imported", "made", "from a child process", "forward"):
        assert word in said


@pytest.mark.parametrize("closed", [">&-", pytest.param(">&- <&- 2>&-", marks=pytest.mark.slow)])
def test_a_closed_output_is_as_good_as_none(folder, closed):
    for command in ("run s.yaml --workers 1 --out o", "list"):
        done = subprocess.run(f"{sys.executable} -m isogrid {command} {closed}", shell=True, cwd=folder, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert (folder / "o" / "report.html").is_file()
