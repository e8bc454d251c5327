"""CUDA beside the CPU of the same machine: attacks on one network and the same samples, verdicts compared. Needs a CUDA device."""

from __future__ import annotations

import statistics
import time

import harness
import torch

from isogrid.attacks import Attack, make

ATTACKS = {
    "PGD-40": {"name": "pgd", "eps": 0.1, "steps": 40},
    "APGD-T, 9 targets, 100 steps": {"name": "apgd-t", "eps": 0.1},
    "DDN-100": {"name": "ddn", "steps": 100},
    "DeepFool": {"name": "deepfool"},
}
PAIRS = 9


def seconds(attack: Attack, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Wall time of one call, the device's queue included, and which samples it turned."""
    if x.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    success = attack(model, x, y, seed=0).success
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, success.cpu()


def main() -> None:
    """Measure and write the section of RESULTS.md."""
    lines = []
    for name, count in (("mlp", 900), ("lenet", 300)):
        model = harness.network(name)
        x, y = harness.correct_samples(model, count)
        places = {device: (harness.network(name).to(device), x.to(device), y.to(device)) for device in ("cpu", "cuda")}
        for title, config in ATTACKS.items():
            attack = make(config)
            seconds(attack, *places["cuda"])  # kernels are loaded and chosen once
            pairs = [(seconds(attack, *places["cuda"]), seconds(attack, *places["cpu"])) for _ in range(PAIRS)]
            ratios = [there / here for (there, _), (here, _) in pairs]
            low, high = harness.order_interval(ratios)
            (cuda, won), (cpu, here) = pairs[-1]
            ratio, differ = f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]", int((won != here).sum())
            lines.append([name, title, str(len(y)), ratio, f"{cuda:.2f}, {cpu:.2f}", str(differ)])
            print(lines[-1], flush=True)
    body = (
        f"Wall time on the device / on the CPU of the same machine with all its cores, median of {PAIRS} interleaved pairs [95 %].\n"
        f"{torch.cuda.get_device_name()}; {harness.machine(f'{torch.get_num_threads()} threads')}.\n\n"
        + harness.table(["network", "attack", "samples", "ratio", "seconds, device and CPU", "verdicts that differ"], lines)
    )
    harness.write_section("CUDA beside the CPU", body)
    print(body)


if __name__ == "__main__":
    main()
