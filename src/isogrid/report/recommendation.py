"""The recommendation in full sentences, each with its effect and interval. Not here: boxes and headline (`report.advice`), judging."""

from __future__ import annotations

from collections.abc import Iterator

from isogrid.verdicts.evidence import GIVEN
from isogrid.verdicts.results import Best, Compromise, Fragile, Highest, Recommendation
from isogrid.verdicts.wording import effect, title


def sentences(found: Recommendation) -> list[str]:
    """Everything that a recommendation says, and what qualifies it all."""
    return list(_sentences(found))


def _sentences(found: Recommendation) -> Iterator[str]:
    if not found.reference:
        yield "Undecided: the dense reference is collapsed or missing, so nothing can be compared with it."
        return
    for best in found.most_robust:
        yield _best(found, best)
    if found.compromise is not None:
        yield _compromise(found, found.compromise)
    if found.highest_sparsity is not None:
        yield _highest(found, found.highest_sparsity)
    if found.first_fragile is not None:
        yield _fragile(found, found.first_fragile)
    for mute in found.mute:
        yield f"{mute.of.norm}: undecided, the dense reference is {mute.why} under {title(mute.of)}; nothing can be compared with it."
    if found.seeds == 1:
        given = found.method == GIVEN
        what, whose = ("One network per level", "these given files") if given else ("One seed", "the one network that was trained")
        yield f"{what}: this holds for {whose}; another training run may differ."


def _at(found: Recommendation, level: int) -> str:
    return "dense" if level == 0 else f"{100 * found.sparsity[level]:.1f} % sparsity (level {level})"


def _best(found: Recommendation, best: Best) -> str:
    said = f"Most robust in {best.norm}: {_at(found, best.level)}, a gain over dense of {effect(best)}"
    said = f"{said}." if best.decided else f"{said}: undecided, the gain over dense is not distinguished from chance."
    if best.level == 0:
        said = f"Most robust in {best.norm}: dense has the highest mean of {title(best)}; no sparse level is shown to be better."
    last = max(best.equal_levels, default=0)
    return f"{said} Within the tolerance it is matched up to {_at(found, last)}." if last > best.level else said


def _compromise(found: Recommendation, best: Compromise) -> str:
    head = f"Best compromise over {' and '.join(gain.norm for gain in best.gains)}, with accuracy kept:"
    if best.level == 0:
        return f"{head} dense; {dense_because(best)}."
    told = f"{head} {_at(found, best.level)}: {'; '.join(effect(gain) for gain in best.gains)}"
    return told + ("." if best.decided else ": undecided, it is not shown to be better than dense.")


def dense_because(best: Compromise) -> str:
    """Why the best compromise is dense; "" where it is not."""
    return {
        "robustness lost": "every sparse level that keeps it loses more than the tolerance in some norm",
        "accuracy lost": "no sparse level is shown to keep it",
        "": "",
    }[best.why]


def _highest(found: Recommendation, highest: Highest) -> str:
    names = " and ".join(title(one) for one in highest.over)
    if highest.level:
        said = f"Highest sparsity that is not worse than dense within the tolerances ({names}): {_at(found, highest.level)}"
        stop = highest.stopped_at
        return said + (f"; {_at(found, stop)} is not shown to be as good." if stop is not None else ", the last level measured.")
    if highest.worse is not None:
        return f"No sparse level is as good as dense within the tolerances ({names}): {_at(found, highest.worse)} is already worse."
    return f"Undecided: no sparse level is shown to be not worse than dense within the tolerances ({names})."


def _fragile(found: Recommendation, fragile: Fragile) -> str:
    if fragile.level is None:
        return f"No fragile level up to {_at(found, max(found.sparsity))}: none is shown to lie below dense minus tolerance."
    why = "it has collapsed"
    if fragile.losses:
        why = f"below dense minus tolerance in {' and '.join(effect(loss) for loss in fragile.losses)}"
        why += f"; {_at(found, fragile.again)} lies above it again" if fragile.again is not None else ""
    return f"First fragile level: {_at(found, fragile.level)}, {why}."
