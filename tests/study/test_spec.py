"""The specification: defaults written out, grids expanded, everything unusable refused with the field's name."""

from __future__ import annotations

import pytest
import yaml

from isogrid import attacks
from isogrid.attacks.naming import attack_id
from isogrid.core.errors import InputError
from isogrid.study.spec import PRESETS, Spec


def test_the_resolved_specification_reads_back_as_itself():
    for spec in [Spec.parse({}), *(Spec.preset(name) for name in PRESETS)]:
        assert Spec.parse(yaml.safe_load(spec.text())) == spec
        assert Spec.parse(yaml.safe_load(spec.text())).text() == spec.text()


def test_the_designs_example_is_understood():
    spec = Spec.parse(
        yaml.safe_load("""
            name: lenet-frontier
            data: {name: mnist-5k, train: 4000, test: 1000}
            models: [lenet-300-100]
            training: {objective: natural, epochs: 40, retrain_epochs: 15, batch_size: 128, schedule: one-cycle,
                       optimizer: {name: sgd, lr: 0.1, momentum: 0.9, nesterov: true}}
            pruning: {method: progressive, rate: 0.3333, rounds: 14, criterion: magnitude, allocation: layer}
            attacks: [{name: fgs, eps: 0.1}, {name: deepfool}, {name: cw, samples: 200}]
            seeds: 3
            tolerance: {r_inf: 0.02, distance: 3%, accuracy: 0.02}
        """)
    )
    assert spec.tolerance.distance == 0.03
    assert [a.samples for a in spec.attacks] == [None, None, 200]


def test_a_list_of_eps_is_that_many_attacks():
    spec = Spec.parse({"attacks": [{"name": "fgs", "eps": [0.05, 0.1, 0.2]}]})
    built = spec.attacks[0].build()
    assert [attack_id(a) for a in built] == ["fgs@0.05", "fgs@0.1", "fgs@0.2"]


def test_ids_tell_apart_what_differs_in_norm_or_domain():
    ids = {
        attack_id(attacks.make(config))
        for config in (
            {"name": "pgd", "eps": 0.1},
            {"name": "pgd", "eps": 0.1, "norm": "l2"},
            {"name": "pgd", "eps": 0.1, "domain": "free"},
        )
    }
    assert ids == {"pgd@0.1", "pgd-l2@0.1", "pgd-free@0.1"}


def test_minimise_is_called_after_what_it_minimises():
    inner = ({"name": "pgd"}, {"name": "pgd", "norm": "l2"}, {"name": "fgs", "eps": 0.3}, {"name": "pgd", "domain": "free"})
    made = [attacks.make({"name": "minimise", "attack": one, "domain": one.get("domain", "box")}) for one in inner]
    assert [attack_id(attack) for attack in made] == ["minimise-pgd", "minimise-pgd-l2", "minimise-fgs", "minimise-pgd-free"]


PGD = {"name": "pgd", "eps": [0.1, 0.2], "steps": 40}


def test_labels_let_two_settings_of_an_attack_stand_in_one_study():
    spec = Spec.parse({"attacks": [PGD, PGD | {"steps": 200, "label": "pgd-200"}, {"name": "ddn", "label": "DDN, own"}]})
    assert [identity for entry in spec.attacks for identity, _ in entry.named()] == [
        "pgd@0.1", "pgd@0.2", "pgd-200@0.1", "pgd-200@0.2", "DDN, own",
    ]  # fmt: skip
    assert Spec.parse(yaml.safe_load(spec.text())) == spec


def test_the_control_is_given_attacks_by_name_or_label():
    base = {"attacks": [PGD, PGD | {"steps": 200, "label": "strong"}]}
    assert [e.label for e in Spec.parse(base | {"control": {"attacks": ["strong"]}}).control_attacks] == ["strong"]
    assert [e.label for e in Spec.parse(base | {"control": {"attacks": ["pgd"]}}).control_attacks] == ["", "strong"]


def test_levels_of_a_method_with_targets_are_the_list_the_one_value_or_its_own():
    def levels(**settings):
        pruning = Spec.parse({"pruning": settings, "control": {"rounds": "none"}}).pruning
        assert Spec.parse(yaml.safe_load(Spec.parse({"pruning": settings}).text())).pruning == pruning
        return [pruning.at(level) for level in range(1, pruning.rounds + 1)]

    assert [at["sparsity"] for at in levels(method="one-shot")] == [0.8, 0.9, 0.95, 0.98, 0.99]
    assert [at["sparsity"] for at in levels(method="cubic", rounds=2)] == [0.8, 0.9]
    assert [at["sparsity"] for at in levels(method="rigl", sparsity=0.7, rounds=4)] == [0.7]
    assert [at["sparsity"] for at in levels(method="set", sparsity=[0.3, 0.4, 0.5], rounds=2)] == [0.3, 0.4, 0.5]
    assert [at["pattern"] for at in levels(method="n-of-m", rounds=2)] == ["2:4", "1:4"]
    assert [at["c"] for at in levels(method="surgery", c={"*": 1.0})] == [{"*": 1.0}]
    assert [at["gamma"] for at in levels(method="surgery", gamma=[0.0, 1e-4], c=2)] == [0.0, 1e-4]


@pytest.mark.parametrize("label", ["fgs", "envelope", "theory", "substitute-fgs", "a@0.1", "a/b", " a", "minimise", "[red]", "a\nb"])
def test_a_label_that_would_mislead_or_break_a_name_is_refused(label):
    with pytest.raises(InputError, match="label"):
        Spec.parse({"attacks": [PGD | {"label": label}]})


def test_control_rounds_stay_within_the_study():
    assert Spec.parse({"pruning": {"rounds": 8}, "control": {"rounds": [0, 6]}}).control_rounds == (6,)
    assert Spec.parse({"pruning": {"rounds": 8}}).control_rounds == (6, 8)
    assert Spec.parse({"pruning": {"rounds": 8}, "control": {"attacks": None}}).control_rounds == (6, 8)
    assert Spec.parse({}).control_rounds == (6, 10, 14)
    assert Spec.parse({"pruning": {"rounds": 0}}).control_rounds == ()
    assert Spec.parse({"pruning": {"rounds": 3}, "control": {"rounds": "all"}}).control_rounds == (1, 2, 3)
    assert Spec.parse({"control": {"rounds": "none"}}).control_rounds == ()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_attack_the_last_round_of_their_control(name):
    """No level beyond it has a control, and claim 3 is about the last level."""
    spec = Spec.preset(name)
    assert max(spec.control_rounds) == max(pruner.rounds if pruner.chained else 1 for pruner in spec.prunings)


def test_twin_is_another_name_of_control():
    assert Spec.parse({"twin": {"rounds": [2]}}) == Spec.parse({"control": {"rounds": [2]}})
    with pytest.raises(InputError, match="not both"):
        Spec.parse({"twin": {"rounds": [2]}, "control": {"rounds": [2]}})


@pytest.mark.parametrize(
    ("value", "field", "accepted"),
    [
        ([1, 2], "study", "mapping"),
        ({"sede": 3}, "sede", "did you mean seeds"),
        ({"training": {"epoch": 3}}, "training.epoch", "did you mean training.epochs"),
        ({"training": {"optimizer": {"learning_rate": 3}}}, "training.optimizer.learning_rate", "training.optimizer.lr"),
        ({"pruning": {"rate": 1.5}}, "pruning.rate", "< 1"),
        ({"pruning": {"rounds": -1}}, "pruning.rounds", "greater than or equal to 0"),
        ({"pruning": {"rounds": 2.5}}, "pruning.rounds", "integer"),
        ({"pruning": {"method": "magic"}}, "pruning.method", "progressive"),
        ({"pruning": {"criterion": "magnitud"}}, "criterion", "did you mean magnitude"),
        ({"training": {"objective": "adversarial"}}, "objective", "natural"),
        ({"seeds": 0}, "seeds", "greater than or equal to 1"),
        ({"seeds": "many"}, "seeds", "integer"),
        ({"attacks": [{"name": "fgsm", "eps": 0.1}]}, "attack", "did you mean fgs"),
        ({"attacks": [{"name": "fgs", "epsilon": 0.1}]}, "attack fgs", "did you mean eps"),
        ({"attacks": [{"name": "fgs", "eps": -0.1}]}, "eps", ">= 0"),
        ({"attacks": [{"name": "fgs", "eps": "big"}]}, "eps", "a finite number >= 0"),
        ({"attacks": [{"name": "fgs", "eps": 0.1}, {"name": "fgs", "eps": 0.1}]}, "attacks", "give one of them a `label`"),
        ({"attacks": [{"name": "pgd", "label": "a"}, {"name": "pgd", "steps": 9, "label": "a"}]}, "attacks", "a `label`"),
        ({"attacks": [{"name": "minimise"}, {"name": "minimise", "searches": 9}]}, "minimise-pgd", "a `label`"),
        ({"attacks": [{"name": "fgs", "eps": 0.1, "samples": 0}]}, "samples", "greater than or equal to 1"),
        ({"models": []}, "models", "at least one"),
        ({"models": ["linear", "linear"]}, "models", "once"),
        ({"control": {"attacks": ["pgd"]}, "attacks": [{"name": "fgs", "eps": 0.1}]}, "control.attacks", "fgs"),
        ({"tolerance": {"distance": "three%"}}, "tolerance.distance", "share"),
        ({"tolerance": {"r_inf": -1}}, "tolerance.r_inf", "greater than or equal to 0"),
        ({"pruning": {"rounds": 8}, "control": {"rounds": [6, 10]}}, "control.rounds", "rounds 0 to 8"),
        ({"pruning": {"rounds": 8}, "audit": {"levels": [0, 9]}}, "audit.levels", "levels 0 to 8"),
        ({"pruning": {"rounds": 8}, "blackbox": {"levels": [-1]}}, "blackbox.levels", "levels 0 to 8"),
        ({"models": [{"name": "linear", "checkpoints": ["a", "b"]}], "audit": {"levels": [2]}}, "audit.levels", "levels 0 to 1"),
        ({"transfer": {"attack": {"name": "fgs", "eps": [0.1, 0.2]}}}, "transfer.attack.eps", "one eps"),
        ({"blackbox": {"attack": {"name": "fgs", "eps": [0.1, 0.2]}}}, "blackbox.attack.eps", "one eps"),
        ({"transfer": {"attack": {"name": "fgs", "samples": 5}}}, "transfer.attack.samples", "transfer.samples"),
        ({"blackbox": {"attack": {"name": "fgs", "samples": 5}}}, "blackbox.attack.samples", "every test sample"),
        ({"blackbox": {"attack": {"name": "fgs", "survivors": True}}}, "blackbox.attack.survivors", "every test sample"),
        ({"blackbox": {"attack": "ddn"}}, "blackbox.attack", "fixed-budget"),
        ({"attacks": [{"name": "fgs", "eps": []}]}, "eps", "one eps or more"),
        ({"attacks": [{"name": "fgs", "eps": float("inf")}]}, "eps", "> 0"),
        ({"attacks": [{"name": "fgs", "eps": [0.1, float("nan")]}]}, "eps", "> 0"),
        ({"tolerance": {"r_inf": float("inf")}}, "tolerance.r_inf", "finite"),
        ({"training": {"optimizer": {"lr": float("nan")}}}, "training.optimizer.lr", "finite"),
        ({"data": {"name": "mnist-5k", "tests": 3}}, "data.tests", "did you mean data.test"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(value, field, accepted):
    with pytest.raises(InputError) as caught:
        Spec.parse(value)
    message = str(caught.value)
    assert field in message
    assert accepted in message
    assert "\n" not in message
