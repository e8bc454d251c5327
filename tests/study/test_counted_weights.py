"""Sparsity over a part of the weights is said wherever sparsity is shown."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from isogrid.report import build_report, print_summary
from isogrid.study.run import run_study
from isogrid.study.spec import Spec

MIXED = """
import torch
from torch import nn

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.eye(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.relu(x.flatten(1) @ self.mix))

def mixed(shape, classes):
    return Mixed()
"""


@pytest.mark.parametrize(("model", "said"), [("mixed", True), ("linear", False)])
def test_the_share_of_weights_that_sparsity_counts_over_stands_beside_it(tmp_path, model, said):
    (tmp_path / "nets.py").write_text(MIXED)
    spec = Spec.parse(
        {
            "name": "counted",
            "data": {"name": "digits", "train": 100, "test": 50},
            "models": [f"{tmp_path / 'nets.py'}:mixed" if model == "mixed" else model],
            "training": {"epochs": 2, "retrain_epochs": 1},
            "pruning": {"rounds": 1},
            "attacks": [{"name": "fgs", "eps": 0.1}],
            "seeds": 1,
        }
    )
    study = run_study(spec, tmp_path / "out", workers=1)
    rows = study.frontier().query("metric == 'weights_counted' and method == 'progressive'")
    assert rows["value"].tolist() == pytest.approx([640 / (640 + 64 * 64) if said else 1.0] * 2)
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    print_summary(study.folder, console)
    text = re.sub(r"<[^>]+>|\s+", " ", build_report(study.folder).read_text(encoding="utf-8"))
    sentence = "Sparsity counts over 13.5 % of all weights."
    assert (sentence in " ".join(console.file.getvalue().split())) == said
    assert (text.count(sentence) >= 3) == said, "below the heading, and below every figure over sparsity"
