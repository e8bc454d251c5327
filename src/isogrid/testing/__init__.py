"""For users who write their own attacks and pruners: the laws that isogrid's own obey, and exact oracles to measure them with."""

from isogrid.testing.attack_laws import ATTACK_LAWS, Law, check_attack
from isogrid.testing.bench import tiny_network
from isogrid.testing.exact import exact_distance

__all__ = ["ATTACK_LAWS", "Law", "check_attack", "exact_distance", "tiny_network"]
