"""An attack is shown by its label where it has one."""

from __future__ import annotations

import pytest

from isogrid.report.verdicts import attack_name
from isogrid.study.results import Used


@pytest.mark.parametrize(
    ("identity", "name", "shown"),
    [
        ("pgd@0.1", "pgd", "PGD"),
        ("pgd-l2@0.5", "pgd", "PGD"),
        ("strong@0.1", "pgd", "strong"),
        ("minimise-pgd", "minimise", "Minimise, pgd"),
        ("ddn-converging", "ddn", "DDN, converging"),
        ("autoattack-l2-thrifty@0.5", "autoattack", "AutoAttack, thrifty"),
        ("ddn", "ddn", "DDN"),
    ],
)
def test_a_label_or_the_fields_name(identity, name, shown):
    assert attack_name(Used(id=identity, name=name)) == shown
