"""From a specification to the plan of a study: which arms, levels and cells there are. Not here: what a cell is, or running any."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from isogrid import attacks, models
from isogrid.attacks.driver.base import as_classifier, check_samples
from isogrid.certify import read_graph
from isogrid.core.errors import InputError, IsogridError, ModelError
from isogrid.core.registry import sources_of
from isogrid.core.targets import refuse_while_loading
from isogrid.data import Split
from isogrid.sparsity import prunable
from isogrid.study.beside import beside
from isogrid.study.cells import (
    Architecture,
    Attack,
    Data,
    Given,
    Substitute,
    Train,
    Transfer,
    about,
)
from isogrid.study.plan import LevelPlan, Network, Plan, TransferPlan
from isogrid.study.rehearsal import rehearse
from isogrid.study.spec import AttackSpec, BlackBoxSpec, ModelSpec, PrunerSpec, Spec, TrainingSpec
from isogrid.theory import linear_weights
from isogrid.training import FitConfig
from isogrid.training.layout import channels_last
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import GIVEN


def plan(spec: Spec) -> Plan:
    """The plan of a study; loads the data and builds every model once, so that unusable input is refused before anything is written."""
    refuse_while_loading("run_study(...)")
    _check_reachable(spec.resolved())
    networks = tuple(_network(spec, model) for model in spec.models)
    levels: list[LevelPlan] = []
    transfers: list[TransferPlan] = []
    for network in networks:
        planner = _Planner(spec, network)
        chains = list(planner.chains())
        levels += chains
        if spec.transfer is not None:
            transfers += [planner.transfer(arm, chains) for arm in dict.fromkeys(one.arm for one in chains if not one.arm.control)]
    return Plan(spec=spec, networks=networks, levels=tuple(levels), transfers=tuple(transfers))


def _check_reachable(value: Any, field: str = "") -> None:
    """Raises InputError for a target in the script that is running, wherever a setting names one: workers do not run it."""
    if isinstance(value, str) and value.startswith("__main__:"):
        name = value.removeprefix("__main__:")
        raise InputError(field, value, f"a target that workers can import: put {name} into a file of its own, FILE.py:{name}")
    for key, part in value.items() if isinstance(value, dict) else [(field, v) for v in value] if isinstance(value, list) else ():
        _check_reachable(part, f"{field}.{key}".lstrip(".") if isinstance(value, dict) else field)


def _data(spec: Spec, model: ModelSpec) -> Data:
    """The samples of one model; of some classes only there may be fewer than the study takes of all."""
    train, test, how = spec.data.train, spec.data.test, {"box": spec.data.box, "hold_out": not model.checkpoints}
    if model.classes:
        whole = Data.of(spec.data.name, None, None, model.classes, **how).counts
        train, test = (None if count is None else min(count, there) for count, there in zip((train, test), whole, strict=True))
    return Data.of(spec.data.name, train, test, model.classes, **how)


def _network(spec: Spec, model: ModelSpec) -> Network:
    data = _data(spec, model)
    split = data.load()
    network, architecture = _built(model.name, split)
    channels_last(network, split.train.x)
    if not prunable(network):
        raise InputError("model", model.name, "a network with at least one linear or convolutional layer to prune")
    if model.weights is not None and model.checkpoints:
        raise InputError("weights", model.weights, "either weights or checkpoints")
    for given in (*(() if model.weights is None else (model.weights,)), *model.checkpoints):
        models.load_weights(network, Path(given).expanduser(), "checkpoints" if model.checkpoints else "weights")
    check_samples(split.test.x, split.test.y, split.test.box)
    as_classifier(network.eval(), split.test.x, split.test.y)
    if not model.checkpoints:
        for training in spec.trainings:
            for pruner in spec.prunings:
                rehearse(network, split, training, pruner, given=model.weights is not None)
    return Network(
        spec=model,
        data=data,
        model=architecture,
        substitute=None if spec.blackbox is None else _substitute(spec.blackbox, split),
        source=split.source,
        linear=len(prunable(network)) == 1 and linear_weights(network, split.test.shape) is not None,
        weights=sum(weight.numel() for weight in prunable(network).values()),
        unproved=_unproved(spec, network, split) if architecture.source else "",  # those that isogrid ships can be read
        pace=_pace(network, split.train.x),
    )


def _built(name: str, split: Split, field: str = "model") -> tuple[torch.nn.Module, Architecture]:
    """The network of the first seed, with what it is known by; raises InputError where another seed gives a factory another network."""
    shape, classes = split.train.shape, split.train.classes
    network = models.build(name, shape, classes, 0)
    architecture = Architecture.of(name, network)
    if architecture.source:
        architecture.build(shape, classes, 1, field)
    return network, architecture


def _unproved(spec: Spec, network: torch.nn.Module, split: Split) -> str:
    """Why certificates do not read the network, empty where they do or nothing asks for them: its attacks can be run all the same."""
    if spec.certify is None and not spec.searches and spec.lipschitz is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of while it exports is in the error, too
            read_graph(network, split.test.x[:8])
    except ModelError as error:
        return str(error).removeprefix("model: ").split(": accepted:")[0]
    return ""


def _substitute(spec: BlackBoxSpec, split: Split) -> Architecture:
    """Raises InputError where the substitute cannot be built for these data, or has too few samples to start from."""
    try:
        network, architecture = _built(spec.model, split, "blackbox.model")
        as_classifier(network.eval(), split.test.x, split.test.y)
    except IsogridError as error:
        raise InputError("blackbox.model", spec.model, f"a model that fits the data ({error})") from None
    if spec.seed_samples > split.train.n:
        raise InputError("blackbox.seed_samples", spec.seed_samples, f"at most the {split.train.n} training samples")
    return architecture


def _pace(network: torch.nn.Module, x: torch.Tensor) -> float:
    """Measured time of one forward and backward pass per sample: forecasts only, never a result."""
    batch, threads = x[:128].clone().requires_grad_(), torch.get_num_threads()
    times = []
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            started = time.process_time()
            network(batch).sum().backward()
            times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times) / len(batch)


class _Planner:
    """The levels of one network, for every way of training and pruning it."""

    def __init__(self, spec: Spec, network: Network) -> None:
        self.spec = spec
        self.network = network
        self.common: dict[str, Any] = {"threads": spec.threads, "device": spec.device}

    def chains(self) -> Iterator[LevelPlan]:
        """Seed by seed: the levels of every arm, then those of its dense control."""
        model = self.network.spec
        for seed in range(self.spec.seeds_of(model)):
            if model.checkpoints:
                yield from self._given(model)
                continue
            for training in self.spec.trainings:
                for pruner in self.spec.prunings:
                    yield from self._pruned(training, pruner, seed)
                yield from self._controls(training, seed)

    def _arm(self, pruner: str, objective: str, penalty: str = "", *, control: bool = False) -> Arm:
        where = {"data": self.network.data.title, "model": self.network.spec.title}
        return Arm(**where, objective=objective, penalty=penalty, pruner=pruner, control=control)

    def _train(self, arm: Arm, seed: int, level: int, fit: FitConfig, pruner: dict[str, Any] | None, parent: Train | None) -> Train:
        return Train(
            data=self.network.data,
            model=self.network.model,
            seed=seed,
            level=level,
            fit=fit,
            pruner=pruner,
            parent=parent,
            sources=sources_of([pruner, fit.objective, fit.penalty]),
            of=_title(arm, seed, level),
            **self.common,
        )

    def _given(self, model: ModelSpec) -> Iterator[LevelPlan]:
        arm = self._arm(GIVEN, "unknown")
        for level, path in enumerate(model.checkpoints):
            yield self._level(arm, 0, level, level, self._file(arm, 0, level, path))

    def _file(self, arm: Arm, seed: int, level: int, path: str) -> Train:
        return Train(
            data=self.network.data,
            model=self.network.model,
            seed=0,
            level=0,
            fit=None,
            pruner=None,
            parent=None,
            given=Given.of(path),
            of=_title(arm, seed, level),
            **self.common,
        )

    def _reference(self, arm: Arm, training: TrainingSpec, seed: int) -> Train:
        """Level 0, which every arm of the same training has in common."""
        weights = self.network.spec.weights
        if weights is not None:
            return self._file(arm, seed, 0, weights)
        return self._train(arm, seed, 0, training.fit(dense=True), None, None)

    def _pruned(self, training: TrainingSpec, pruner: PrunerSpec, seed: int) -> Iterator[LevelPlan]:
        arm, fit = self._arm(pruner.title, training.title, training.regularised), training.fit(dense=False)
        reference = parent = self._reference(arm, training, seed)
        yield self._level(arm, seed, 0, 0, reference)
        for level in range(1, pruner.rounds + 1):
            parent = self._train(arm, seed, level, fit, pruner.at(level), parent if pruner.chained else reference)
            yield self._level(arm, seed, level, level if pruner.chained else 1, parent)

    def _controls(self, training: TrainingSpec, seed: int) -> Iterator[LevelPlan]:
        """The rounds >= 1 of the dense control, as far as one is attacked; its round 0 is the dense reference itself."""
        arm, fit = self._arm("dense", training.title, training.regularised, control=True), training.fit(dense=False)
        attacked = self.spec.control_rounds
        parent = self._reference(arm, training, seed)
        for level in range(1, max(attacked, default=0) + 1):
            parent = self._train(arm, seed, level, fit, {"name": "dense"}, parent)
            yield self._level(arm, seed, level, level, parent, attacked=level in attacked)

    def _level(self, arm: Arm, seed: int, level: int, round_: int, train: Train, *, attacked: bool = True) -> LevelPlan:
        found: list[Attack | Substitute] = list(self._attacks(arm, train, seed)) if attacked else []
        black = self.spec.blackbox
        if black is not None and not arm.control and (black.levels is None or level in black.levels):
            found.append(self._substitute(black, train, seed))
        others = tuple(beside(self.spec, self.network, train, seed, level, found, control=arm.control)) if attacked else ()
        return LevelPlan(arm=arm, seed=seed, level=level, round=round_, train=train, attacks=tuple(found), others=others)

    def _attacks(self, arm: Arm, train: Train, seed: int) -> Iterator[Attack]:
        by_threat: dict[tuple[str, str, float | None], list[Attack]] = {}
        for entry in self.spec.control_attacks if arm.control else self.spec.attacks:
            for identity, attack in entry.named():
                if self.network.linear and getattr(attack, "backward", "exact") == "leaky":
                    continue  # an affine map has no unit that could be dead: it is the exact attack once more
                earlier = by_threat.setdefault((attack.threat.name, attack.domain, attack.budget), [])
                before = tuple(earlier) if entry.survivors else ()
                cell = Attack(
                    network=train,
                    attack=attacks.config_of(attack),
                    seed=seed,
                    samples=attack_samples(entry, self.network.spec),
                    before=before,
                    about=about(identity, attack, partial=bool(before)),
                    **self.common,
                )
                earlier.append(cell)
                yield cell

    def _substitute(self, spec: BlackBoxSpec, train: Train, seed: int) -> Substitute:
        assert self.network.substitute is not None
        identity, attack = spec.attack.named()[0]
        return Substitute(
            network=train,
            attack=attacks.config_of(attack),
            model=self.network.substitute,
            seed_samples=spec.seed_samples,
            rounds=spec.rounds,
            seed=seed,
            about=about(f"substitute-{identity}", attack, name="substitute", role="gradient-free"),
            **self.common,
        )

    def transfer(self, arm: Arm, chains: list[LevelPlan]) -> TransferPlan:
        """The matrix between the levels of the first seed of an arm."""
        assert self.spec.transfer is not None
        identity, attack = self.spec.transfer.attack.named()[0]
        chain = [level for level in chains if level.arm == arm and level.seed == 0]
        cell = Transfer(
            networks=tuple(level.train for level in chain),
            attack=attacks.config_of(attack),
            samples=self.spec.transfer.samples,
            about=about(identity, attack),
            of=arm.model,
            **self.common,
        )
        return TransferPlan(arm=arm, levels=tuple(level.level for level in chain), cell=cell)


def _title(arm: Arm, seed: int, level: int) -> str:
    """What a level is called in a progress bar; level 0 is that of every pruner, and of the control."""
    return f"{arm.model} seed {seed} " + (f"{arm.pruner} level {level}" if level or arm.pruner == GIVEN else "dense")


def attack_samples(spec: AttackSpec, model: ModelSpec) -> int | None:
    """How many of the test samples an attack gets on a model."""
    return spec.samples_of.get(model.title, spec.samples_of.get(model.name, spec.samples))
