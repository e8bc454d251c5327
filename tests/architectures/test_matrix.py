"""Networks as people have them through everything: a study with figures that a plain loop confirms, resumed, on one and two workers, its
levels attacked and given back as checkpoints. Each works, or is refused in one line before anything is written.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pandas as pd
import pytest
import torch

from isogrid.cli import main
from isogrid.core.files import save_tensors
from isogrid.data import load
from isogrid.study.planning import plan
from isogrid.study.run import missing, run_study
from isogrid.study.spec import Spec

NETS = Path(__file__).parent / "nets.py"
TEN = [
    "tanh_mlp",
    "sigmoid_mlp",
    "ViewAfterConvolution",
    "pre_activation_resnet",
    "depthwise",
    "group_norm_gelu",
    "SmallViT",
    "lstm",
    "gru",
    "one_dimensional",
    "three_dimensional",
    "UNet",
    "SharedWeights",
    "batch_norm_table",
    "dropout",
    "HalfInside",
    "lazy",
    "HeadFirst",
    "weight_norm",
]
TWO = ["one_logit", "FlatLogit"]
STUDY = {
    "name": "matrix",
    "training": {"epochs": 12, "retrain_epochs": 4, "batch_size": 50, "optimizer": {"name": "adam", "lr": 0.01}},
    "pruning": {"rounds": 2, "rate": 0.5},
    "control": {"rounds": "none"},
    "attacks": [{"name": "fgs", "eps": 0.1}, {"name": "pgd", "eps": 0.1, "steps": 5}, {"name": "ddn", "steps": 20}],
    "seeds": 1,
}


def specification(name: str) -> Spec:
    model = {"name": f"{NETS}:{name}"} | ({"classes": [1, 7]} if name in TWO else {})
    counts = {"train": 101, "test": 40} if name in TWO else {"train": 301, "test": 60}  # a last batch of one sample
    return Spec.parse(STUDY | {"data": {"name": "digits"} | counts, "models": [model]})


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("frontier.csv", "summary.json", "plan.json")}


def logits(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        z = network(x).reshape(len(x), -1).float()
    return torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z


@pytest.mark.parametrize("name", [*TEN, *TWO])
def test_a_study_of_it_has_the_figures_of_a_plain_loop_and_resumes(name, tmp_path):
    spec = specification(name)
    study = run_study(spec, tmp_path / "two", workers=2)
    frontier = study.frontier()
    split = study.plan.networks[0].data.load()
    for level in range(3):
        network, rows = study.model(level=level), frontier.query("level == @level").set_index(["metric", "attack"])["value"]
        accuracy = (logits(network, split.test.x).argmax(1) == split.test.y).double().mean().item()
        assert rows["accuracy", ""] == pytest.approx(accuracy, abs=1 / split.test.n + 1e-9)  # a tie may fall either way
        assert rows["collapsed", ""] == 0
        assert rows["r_inf", "pgd@0.1"] <= rows["accuracy", ""] + 1e-9
        records = study.records("pgd@0.1", level=level)
        assert len(records) == split.test.n
        assert (records.loc[records["success"], "distance"] <= 0.1 + 1e-5).all()
    assert frontier.query("metric == 'accuracy'")["value"].max() > 0.2
    assert frontier.query("level == 2")["sparsity"].iloc[0] > 0.6
    stopped = []

    def stop(event):
        stopped.append(event)
        if sum(one.kind == "finished" for one in stopped) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(spec, tmp_path / "one", workers=1, on_event=stop)
    assert missing(plan(spec), tmp_path / "one")
    run_study(spec, tmp_path / "one", workers=1)
    assert tables(tmp_path / "one") == tables(tmp_path / "two")


@pytest.mark.parametrize("name", ["lstm", "depthwise", "SmallViT", "batch_norm_table", "FlatLogit", "HeadFirst"])
def test_its_levels_are_attacked_and_given_back_as_checkpoints(name, tmp_path):
    spec = specification(name)
    study = run_study(spec, tmp_path / "made", workers=1)
    files = []
    for level in range(3):
        files.append(str(tmp_path / f"level{level}.safetensors"))
        save_tensors(Path(files[-1]), study.model(level=level).state_dict())
    model = {"name": f"{NETS}:{name}", "checkpoints": files} | ({"classes": [1, 7]} if name in TWO else {})
    given = run_study(Spec.parse(spec.resolved() | {"models": [model]}), tmp_path / "given", workers=1)
    keys = ["metric", "attack", "level"]
    made, again = (one.frontier().query("attack in ['', 'fgs@0.1', 'pgd@0.1']").set_index(keys)["value"] for one in (study, given))
    pd.testing.assert_series_equal(made.sort_index(), again.sort_index())
    said, wrong = io.StringIO(), io.StringIO()
    data = f"digits:train={spec.data.train},test={spec.data.test}" + (",classes=1+7" if name in TWO else "")
    with redirect_stdout(said), redirect_stderr(wrong), pytest.raises(SystemExit) as stopped:
        main(["attack", "--model", f"{NETS}:{name}", "--weights", files[2], "--data", data, "--attacks", "fgs", "--eps", "0.1", "--json"])
    assert not stopped.value.code, wrong.getvalue()


def test_the_digits_are_there():
    assert load("digits", train=301, test=60).train.n == 301
