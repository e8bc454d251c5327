"""The cells of a level beside its attacks: what is proved of it, what explains it, what audits it. Not here: training, attacks.

What is asked of the level by a part of the specification is a function each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from isogrid import attacks
from isogrid.study.cells import Attack, Audit, Cell, Certificate, Exact, Lipschitz, Substitute, Theory, Train, about
from isogrid.study.plan import Network
from isogrid.study.spec import LipschitzSpec, Spec

Found = Sequence[Attack | Substitute]


def beside(spec: Spec, network: Network, train: Train, seed: int, level: int, found: Found, *, control: bool) -> Iterator[Cell]:
    """All of them, in the order in which they are run; `found`: the attacks on the level. A dense control has certificates alone."""
    common = {"threads": spec.threads, "device": spec.device}
    if not control:
        yield from _explained(spec, network, train, seed, level, common)
    if not network.linear and not network.unproved:  # of affine models the theory has the exact distances
        yield from _certificates(spec, train, seed, level, found, control, common)
        if not control:
            yield from _searches(spec, train, seed, level, found, common)


def _explained(spec: Spec, network: Network, train: Train, seed: int, level: int, common: dict[str, Any]) -> Iterator[Cell]:
    """Theory of affine models, the audit, Lipschitz constants, the user's own kinds."""
    built = [attack for entry in spec.attacks for attack in entry.build()]
    if network.linear:
        budgets = {attack.budget for attack in built if attack.threat.name == "linf" and attack.budget is not None}
        yield Theory(network=train, eps=tuple(sorted(budgets)), **common)
    if spec.audit is not None and seed == 0 and level in spec.audit.levels:
        gradients = sum(3 * about("", attack).gradients + 500 for attack in built)
        configs = tuple(attacks.config_of(attack) for attack in built)
        yield Audit(network=train, attacks=configs, samples=spec.audit.samples, gradients=gradients, **common)
    if (why := spec.lipschitz) is not None and not network.linear and not network.unproved and _asked(why.levels, why.seeds, level, seed):
        yield _lipschitz(why, train, seed, common)
    for further in spec.cells:
        if _asked(further.levels, further.seeds, level, seed):
            yield further.on(train, **common)


def _lipschitz(why: LipschitzSpec, train: Train, seed: int, common: dict[str, Any]) -> Lipschitz:
    reference = train
    while reference.parent is not None:
        reference = reference.parent
    return Lipschitz(
        network=train,
        reference=None if reference is train else reference,
        samples=why.samples,
        radii={str(norm): radius for norm, radius in why.radii.items()},
        draws=why.draws,
        clever=why.clever,
        seed=seed,
        **common,
    )


def _certificates(
    spec: Spec, train: Train, seed: int, level: int, found: Found, control: bool, common: dict[str, Any]
) -> Iterator[Certificate]:
    """One per norm, beside the attacks of the same threat; of the control at every round that is attacked."""
    how = spec.certify
    if how is None or not _asked(None if control else how.levels, how.seeds, level, seed):
        return
    if control and not how.control:
        return
    for norm in how.norms:
        alike = _alike(found, norm, how.domain)
        budgets = how.eps.get(norm) or _budgets(alike)
        yield Certificate(
            network=train,
            methods=how.methods,
            norm=norm,
            domain=how.domain,
            samples=how.samples,
            eps=budgets,
            attacks=alike,
            **common,
        )


def _searches(spec: Spec, train: Train, seed: int, level: int, found: Found, common: dict[str, Any]) -> Iterator[Exact]:
    """One per norm and budget, and one per norm whose distances are asked for, beside the attacks of the same threat."""
    asked = [how for how in spec.searches if _asked(how.levels, how.seeds, level, seed)]
    for how, norm in [(one, norm) for one in asked for norm in dict.fromkeys((*one.norms, *one.distances))]:
        alike = _alike(found, norm, how.domain)
        budgets = (how.eps.get(norm) or _budgets(alike)) if norm in how.norms else ()
        for eps in (*budgets, *([None] if norm in how.distances else [])):
            yield Exact(
                network=train,
                method=how.method,
                norm=norm,
                domain=how.domain,
                eps=eps,
                samples=how.samples,
                attacks=alike,
                **common,
            )


def _alike(found: Found, norm: str, domain: str) -> tuple[Attack, ...]:
    """The attacks of one norm and domain."""
    return tuple(cell for cell in found if isinstance(cell, Attack) and (cell.about.norm, cell.about.domain) == (norm, domain))


def _budgets(cells: Sequence[Attack]) -> tuple[float, ...]:
    """Of what size the perturbations of attacks are, rising."""
    return tuple(sorted({cell.about.eps for cell in cells if cell.about.eps is not None}))


def _asked(levels: tuple[int, ...] | None, seeds: int | None, level: int, seed: int) -> bool:
    """Whether a part of a specification asks for this level of this seed."""
    return (levels is None or level in levels) and (seeds is None or seed < seeds)
