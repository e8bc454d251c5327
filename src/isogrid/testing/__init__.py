"""For users who write attacks, pruners and certificates: the laws that isogrid's own obey, and exact oracles to measure them with."""

from isogrid.testing.attack_laws import ATTACK_LAWS, check_attack
from isogrid.testing.bench import tiny_network
from isogrid.testing.certificate_laws import CERTIFICATE_LAWS, check_certificate
from isogrid.testing.exact import exact_distance
from isogrid.testing.law import Law
from isogrid.testing.mip import mip_distance
from isogrid.testing.pruner_laws import PRUNER_LAWS, check_pruner

__all__ = [
    "ATTACK_LAWS",
    "CERTIFICATE_LAWS",
    "PRUNER_LAWS",
    "Law",
    "check_attack",
    "check_certificate",
    "check_pruner",
    "exact_distance",
    "mip_distance",
    "tiny_network",
]
