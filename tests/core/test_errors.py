"""Errors for users: one line, whatever the value."""

from __future__ import annotations

import pickle

from isogrid.core.errors import InputError, one_of


def test_always_one_line_that_names_field_value_and_accepted():
    for value in ("two\nlines", "x" * 1000, None, [1] * 500):
        text = str(InputError("field", value, "a\n  thing"))
        assert "\n" not in text
        assert text.startswith("field: got ")
        assert text.endswith("; accepted: a thing")
        assert len(text) < 200


def test_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(InputError("eps", -1, "a number")))  # noqa: S301
    assert (error.field, error.value, str(error)) == ("eps", -1, "eps: got -1; accepted: a number")


def test_no_hint_where_nothing_is_near():
    assert "did you mean" not in str(one_of("attack", "zzzz", ["fgs", "pgd"]))
    assert "did you mean pgd?" in str(one_of("attack", "pdg", ["fgs", "pgd"]))
