"""Minimum-norm l2 attacks against their peers: `python benchmarks/minimum_norm.py [--networks lenet,mlp] [--rows deepfool,cw]`.

Every row compares the same samples, in the box, at the same step limits, with the fastest peer that breaks at least 95 % of them.
Distances are means over the samples that both break, measured by one function for everybody.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import harness
import peers
import torch
from torch import Tensor, nn

from isogrid.attacks.carlini_wagner import CarliniWagner
from isogrid.attacks.deepfool import DeepFool, SuperDeepFool
from isogrid.attacks.driver.base import Attack


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison: our attack, peers by name (built on demand, so that a missing one is only named), samples, and the limits to meet."""

    label: str
    ours: Attack
    peers: dict[str, Callable[[], peers.PeerAttack]]
    samples: int
    time: float  # our CPU time over the fastest correct peer's may be at most this
    distance: float  # and our mean distance over its may be at most this


def _advlib(module: str, function: str, **settings: object) -> Callable[[], peers.PeerAttack]:
    def build() -> peers.PeerAttack:
        attack = getattr(peers.advlib(module), function)
        return lambda model, x, y: attack(model, x, y, **settings)

    return build


DEEPFOOL = {
    "adv-lib": _advlib("deepfool", "df", steps=50, overshoot=0.02),
    "Foolbox, 3 candidates": lambda: peers.foolbox(lambda a: a.L2DeepFoolAttack(steps=50, candidates=4, overshoot=0.02)),
    "Foolbox, all": lambda: peers.foolbox(lambda a: a.L2DeepFoolAttack(steps=50, candidates=None, overshoot=0.02)),
    "torchattacks": lambda: peers.torchattacks(lambda t, m: t.DeepFool(m, steps=50, overshoot=0.02)),
    "ART": lambda: peers.art(lambda e, c: e.DeepFool(c, max_iter=50, epsilon=0.02, nb_grads=10, batch_size=128, verbose=False)),
}
CW = {
    "adv-lib": _advlib(
        "carlini_wagner.l2", "carlini_wagner_l2", learning_rate=0.1, initial_const=0.1, binary_search_steps=5, max_iterations=60
    ),
    "Foolbox": lambda: peers.foolbox(lambda a: a.L2CarliniWagnerAttack(binary_search_steps=5, steps=60, stepsize=0.1, initial_const=0.1)),
    "torchattacks, c = 10": lambda: peers.torchattacks(lambda t, m: t.CW(m, c=10, steps=300, lr=0.1)),
    "ART": lambda: peers.art(
        lambda e, c: e.CarliniL2Method(
            c, learning_rate=0.1, binary_search_steps=5, max_iter=60, initial_const=0.1, batch_size=64, verbose=False
        )
    ),
}
SDF = {"adv-lib": _advlib("superdeepfool", "sdf", steps=100)}
ROWS = {
    "deepfool": Row(label="DeepFool, 3 candidates", ours=DeepFool(domain="box"), peers=DEEPFOOL, samples=512, time=1 / 3, distance=1.007),
    "deepfool-exact": Row(
        label="DeepFool, all classes",
        ours=DeepFool(domain="box", candidates=None, parts=4),
        peers=DEEPFOOL,
        samples=512,
        time=1,
        distance=1,
    ),
    "superdeepfool": Row(label="SuperDeepFool", ours=SuperDeepFool(), peers=SDF, samples=512, time=1, distance=1.007),
    "cw": Row(
        label="C&W converging, 5 x 60, lr 0.1, c0 0.1",
        ours=CarliniWagner(converge=True, searches=5, steps=60, c0=0.1),
        peers=CW,
        samples=64,
        time=0.5,
        distance=1,
    ),
    "cw-scaled": Row(
        label="C&W converging, same, our c0 from the model",
        ours=CarliniWagner(converge=True, searches=5, steps=60),
        peers=CW,
        samples=64,
        time=0.5,
        distance=1,
    ),
}
PAIRS = {"mlp": 25, "mlp-98": 25}  # a run takes a third of a second there, and nine pairs leave a wide interval
SLOW_PEERS = (DEEPFOOL["ART"], DEEPFOOL["torchattacks"], CW["ART"])  # 16 to 53 times as slow as the fastest, or slower
SLOW_SAMPLES = 16


def _once(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    found: list[Tensor] = []
    return harness.cpu_seconds(lambda: found.append(function())), found[0]


@functools.cache
def _slow(build: Callable[[], peers.PeerAttack], model: nn.Module, samples: int) -> tuple[float, harness.Strength]:
    """CPU seconds and strength of a slow peer on the first `samples` correct digits: rows share them."""
    x, y = harness.correct_samples(model, samples)
    attack, own = build(), copy.deepcopy(model)  # what they leave behind in it must not reach the rows that follow
    seconds, found = _once(lambda: attack(own, x, y))
    return seconds, harness.strength(model, x, y, found)


def _few(strength: harness.Strength, n: int) -> harness.Strength:
    """The same of the first n samples."""
    distance = strength.distance[:n]
    found = torch.isfinite(distance)
    return harness.Strength(
        success=found.float().mean().item(), mean=distance[found].mean().item(), median=distance.median().item(), distance=distance
    )


def compare(row: Row, network: str, model: nn.Module, pairs: int) -> tuple[list[list[str]], list[str]]:
    """The table's lines for one row on one network, and notes on the peers that did not run."""
    x, y = harness.correct_samples(model, row.samples if network != "resnet" else max(64, row.samples // 8))
    lines, notes, runs, slow = [], [], {}, {}
    cost, mine = _once(lambda: row.ours(model, x, y).x_adv)
    ours = harness.strength(model, x, y, mine)
    for name, build in row.peers.items():
        try:
            if build in SLOW_PEERS:
                slow[f"{name} ({SLOW_SAMPLES} samples)"] = _slow(build, model, SLOW_SAMPLES)
                continue
            attack = build()
            seconds, found = _once(lambda attack=attack: attack(model, x, y))
        except peers.MissingError as error:
            notes.append(f"{row.label}: {name} not compared: {error}")
            continue
        runs[name] = (seconds, harness.strength(model, x, y, found), attack)
    lines.append([network, row.label, "isogrid", f"{cost:.2f}", f"{ours.success:.3f}", f"{ours.median:.4f} / {ours.mean:.4f}", "", "", ""])
    correct = {name: run[0] for name, run in runs.items() if run[1].success >= 0.95}
    fastest = min(correct, key=lambda name: correct[name]) if correct else ""
    for name, (seconds, theirs, attack) in runs.items():
        own, other = harness.common_means(ours, theirs)
        ratio = verdict = ""
        if name == fastest:
            measured = harness.compare(lambda: row.ours(model, x, y), lambda attack=attack: attack(model, x, y), pairs)
            ratio = str(measured)
            met = measured.high <= row.time and own <= row.distance * other
            verdict = f"{'met' if met else 'MISSED'} (<= {row.time:.2f}, <= {row.distance:.3f})"
        distances = f"{theirs.median:.4f} / {theirs.mean:.4f}"
        lines.append([network, row.label, name, f"{seconds:.2f}", f"{theirs.success:.3f}", distances, ratio, f"{own / other:.4f}", verdict])
    for name, (seconds, theirs) in slow.items():
        own, other = harness.common_means(_few(ours, SLOW_SAMPLES), theirs)
        distances = f"{theirs.median:.4f} / {theirs.mean:.4f}"
        lines.append([network, row.label, name, f"{seconds:.2f}", f"{theirs.success:.3f}", distances, "", f"{own / other:.4f}", ""])
    return lines, notes


def publish(lines: list[list[str]], notes: list[str], pairs: str, part: str) -> None:
    """Write the section from the lines measured so far."""
    header = [
        "network",
        "attack",
        "library",
        "CPU s",
        "success",
        "l2 median / mean",
        "time, isogrid / peer",
        "mean, isogrid / peer",
        "target",
    ]
    text = (
        f"{harness.machine()}. Box [0, 1]. CPU seconds of one run; the time ratio against the fastest correct peer is the median of "
        f"{pairs} interleaved pairs with a >= 95 % interval, and the target wants its upper end and the ratio of mean "
        "distances (over samples that both break). isogrid's time includes its verification. "
        "All of C&W here is our converging form. "
        "DeepFool's `parts` and C&W's stopping constants were chosen on samples and networks of this very table "
        "(`--held-out` measures C&W elsewhere)."
    )
    harness.write_section(f"Minimum-norm attacks{part}", "\n\n".join([text, harness.table(header, lines), *sorted(set(notes))]))


def held_out(pairs: int, samples: int = 256) -> None:
    """C&W where nothing was tuned, test digits 500..1000 and MLPs of another seed: write the section "C&W, held out"."""
    x_train, y_train, x_test, y_test = (*harness.digits()[:2], *(part[500:] for part in harness.digits()[2:]))
    attack, lines = CW["adv-lib"](), []
    for network in ("mlp", "mlp-98", "lenet"):
        model = harness.network(network)
        if network != "lenet":
            factory, rate, epochs = harness.SHAPES[network]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                model = factory()
            harness._train(model, x_train, y_train, rate, epochs)
            if network == "mlp-98":
                harness._prune(model, x_train, y_train, (0.4, 0.15, 0.06, 0.02))
            model.eval()
        with torch.no_grad():
            right = model(x_test).argmax(1) == y_test
        x, y = x_test[right][:samples], y_test[right][:samples]
        theirs = harness.strength(model, x, y, attack(model, x, y))
        for name in ("cw", "cw-scaled"):
            ours, few = ROWS[name].ours, ROWS[name].samples
            mine = harness.strength(model, x, y, ours(model, x, y).x_adv)
            own, other = harness.common_means(mine, theirs)
            measured = harness.compare(
                lambda ours=ours, model=model, x=x[:few], y=y[:few]: ours(model, x, y),
                lambda model=model, x=x[:few], y=y[:few]: attack(model, x, y),
                pairs,
            )
            lines.append([network, ROWS[name].label, f"{mine.success:.3f} / {theirs.success:.3f}", f"{own / other:.4f}", str(measured)])
    header = ["network", "attack", "success, isogrid / adv-lib", "mean, isogrid / adv-lib", "time, isogrid / adv-lib"]
    text = (
        f"{harness.machine()}. Test digits 500..1000 that are classified correctly, at most {samples}; mlp and mlp-98 of seed 1. Time: "
        f"{ROWS['cw'].samples} samples, {pairs} pairs."
    )
    harness.write_section("C&W, held out", text + "\n\n" + harness.table(header, lines))


def main() -> None:
    """Run the rows and write the section "Minimum-norm attacks"."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="lenet,mlp,mlp-98,resnet")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--pairs", type=int, help="default: 9, on the small networks 25")
    parser.add_argument("--held-out", action="store_true", help="only C&W on samples and networks that nothing was tuned on")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.held_out:
        held_out(chosen.pairs or 9)
        return
    lines: list[list[str]] = []
    notes: list[str] = []
    for network in chosen.networks.split(","):
        model = harness.network(network)
        for name in chosen.rows.split(","):
            more, said = compare(ROWS[name], network, model, chosen.pairs or PAIRS.get(network, 9))
            lines, notes = lines + more, notes + said
            print("\n".join(" | ".join(line) for line in more), flush=True)
        part = "" if chosen.networks == parser.get_default("networks") else f": {chosen.networks}"
        publish(lines, notes, str(chosen.pairs or "9 (mlp, mlp-98: 25)"), part)


if __name__ == "__main__":
    main()
