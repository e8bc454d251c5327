"""For users who write their own attacks and pruners: the laws that isogrid's own obey, and exact oracles to measure them with."""

from isogrid.testing.attack_laws import ATTACK_LAWS, check_attack
from isogrid.testing.bench import tiny_network
from isogrid.testing.exact import exact_distance
from isogrid.testing.law import Law
from isogrid.testing.pruner_laws import PRUNER_LAWS, check_pruner

__all__ = ["ATTACK_LAWS", "PRUNER_LAWS", "Law", "check_attack", "check_pruner", "exact_distance", "tiny_network"]
