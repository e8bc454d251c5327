"""Attacks as flags name them: parameters in brackets, budgets for those attacks that have one, everything else refused in one line."""

from __future__ import annotations

import json

import pytest
import yaml

from isogrid.cli import main
from isogrid.cli.attack_flags import chosen_attacks, parse_attacks
from isogrid.cli.listing import catalogue
from isogrid.core.errors import InputError
from isogrid.core.files import save_tensors
from isogrid.models import build
from isogrid.study.spec import Spec


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("fgs", [{"name": "fgs"}]),
        (" fgs , deepfool,", [{"name": "fgs"}, {"name": "deepfool"}]),
        ("pgd(norm=l2,steps=100),deepfool", [{"name": "pgd", "norm": "l2", "steps": 100}, {"name": "deepfool"}]),
        ("pgd( eps = 1e-3 , early_stop=false)", [{"name": "pgd", "eps": 1e-3, "early_stop": False}]),
        ("pgd(eps=8/255,steps=10)", [{"name": "pgd", "eps": 8 / 255, "steps": 10}]),
        ("deepfool(candidates=none)", [{"name": "deepfool", "candidates": None}]),
        ("fgs()", [{"name": "fgs"}]),
        ("my.py:f(norm=linf,eps=0.1)", [{"name": "callable", "target": "my.py:f", "norm": "linf", "eps": 0.1}]),
        ("pkg.mod:f", [{"name": "callable", "target": "pkg.mod:f"}]),
        ("minimise(attack=pgd(norm=l2,eps=0.1),searches=9)", [
            {"name": "minimise", "attack": {"name": "pgd", "norm": "l2", "eps": 0.1}, "searches": 9}]),
        ("ensemble(attacks=fgs(eps=0.1)+pgd(eps=0.1))", [
            {"name": "ensemble", "attacks": [{"name": "fgs", "eps": 0.1}, {"name": "pgd", "eps": 0.1}]}]),
    ],
)  # fmt: skip
def test_attacks_are_read_with_their_parameters(text, entries):
    assert parse_attacks(text) == entries


@pytest.mark.parametrize(
    "text",
    ["", ",", "fgs(", "fgs)", "fgs(eps=0.1))", "fgs(eps)", "fgs(=1)", "fgs(eps=)", "fgs(eps=0.1)x", "(eps=1)", "fgs(eps=1,eps=2)",
     "pgd:norm=l2:steps=100", "fgsm", "fgs(epsilon=0.1)", "fgs(eps=big)", "fgs(eps=inf)", "pgd(eps=nan)", "fgs(name=pgd)",
     "minimise(attack=deepfool)", "fgs,fgs", "minimise(attack=fgsm)"],
)  # fmt: skip
def test_what_is_no_attack_is_refused_in_one_line(text):
    with pytest.raises(InputError) as caught:
        Spec.parse({"attacks": chosen_attacks([], text, None)})
    assert "\n" not in str(caught.value)
    assert "attack" in caught.value.field or caught.value.field == "eps"


def test_eps_sets_the_budgets_of_the_attacks_that_have_one_by_default():
    chosen = chosen_attacks([], "fgs,fab,deepfool,pgd(eps=0.5)", "0.1,0.2")
    assert chosen == [{"name": "fgs", "eps": [0.1, 0.2]}, {"name": "fab"}, {"name": "deepfool"}, {"name": "pgd", "eps": 0.5}]


@pytest.mark.parametrize(("text", "budgets"), [("2/255, 8/255", [2 / 255, 8 / 255]), ("1e-1", [0.1]), ("0,.1", [0.0, 0.1])])
def test_budgets_are_numbers_as_people_write_them(text, budgets):
    assert chosen_attacks([], "fgs", text) == [{"name": "fgs", "eps": budgets}]


@pytest.mark.parametrize("text", ["1/0", "8/", "/255", "8/255/2", "0.1;0.2", "nan/1x"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InputError, match=r"^eps: got "):
        chosen_attacks([], "fgs", text)


@pytest.mark.parametrize("text", ["fab", "deepfool,ddn", "pgd(eps=0.1)"])
def test_eps_that_no_attack_takes_is_refused(text):
    with pytest.raises(InputError, match=r"eps: got 0\.1; accepted: "):
        chosen_attacks([], text, "0.1")


BASE = [{"name": "pgd", "eps": 0.1, "steps": 5}, {"name": "pgd", "label": "strong", "parameters": {"eps": 0.1, "steps": 50}}, "deepfool"]


def test_attacks_of_a_study_are_chosen_by_name_or_label_and_keep_their_parameters():
    strong = {"name": "pgd", "label": "strong", "eps": 0.1, "steps": 50}
    assert chosen_attacks(BASE, "strong", None) == [strong]
    assert chosen_attacks(BASE, "pgd,fgs", None) == [BASE[0], strong, {"name": "fgs"}]
    assert chosen_attacks(BASE, "pgd(steps=7)", None) == [{"name": "pgd", "steps": 7}]
    assert chosen_attacks(BASE, None, "0.3") == [BASE[0] | {"eps": [0.3]}, strong | {"eps": [0.3]}, {"name": "deepfool"}]


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


@pytest.fixture
def model(tmp_path):
    save_tensors(tmp_path / "net.safetensors", build("lenet-300-100", (1, 8, 8), 10, 0).state_dict())
    return ["--model", "lenet-300-100", "--weights", str(tmp_path / "net.safetensors"), "--data", "digits", "--samples", "20"]


def test_attack_takes_parameters(capsys, model):
    code, out, err = call(capsys, "attack", *model, "--attacks", "fab(steps=3),pgd(norm=l2,steps=3,label=own)", "--eps", "0.1", "--json")
    assert code == 0, err
    shown = {row["id"]: row for row in json.loads(out)["attacks"]}
    assert {identity: row["eps"] for identity, row in shown.items()} == {"fab": None, "own@0.1": 0.1}
    assert shown["own@0.1"]["config"]["steps"] == 3


@pytest.mark.parametrize("given", ["fgs(samples=5)", "apgd-t(survivors=true)"])
def test_attack_refuses_what_only_a_study_has(capsys, model, given):
    code, _, err = call(capsys, "attack", *model, "--attacks", given)
    assert code == 2
    assert err.startswith("error: attacks: got ")
    assert err.count("\n") == 1


def test_eps_alone_changes_a_studys_default_attacks(capsys, tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"data": "digits", "models": ["linear"], "pruning": {"rounds": 0}}))
    code, out, err = call(capsys, "run", str(tmp_path / "study.yaml"), "--eps", "0.05,0.2", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["kinds"]["attack"]["tasks"] == 3 * 4


@pytest.mark.parametrize("command", ["run", "attack"])
def test_help_shows_how_parameters_are_written(capsys, command):
    assert "pgd(norm=l2,steps=100)" in "".join(call(capsys, command, "--help")[1].split())


def test_every_composed_attack_is_listed_with_a_use_that_works():
    composed = catalogue()["composed attacks"]
    assert {"callable", "ensemble", "minimise"} == set(composed)
    for name, line in composed.items():
        use = line.rpartition("as ")[2]
        assert parse_attacks(use)[0]["name"] == name
        if name != "callable":
            Spec.parse({"attacks": parse_attacks(use)})
