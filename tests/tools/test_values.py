"""Values of tools: which answers are errors, and which calls are the same."""

from __future__ import annotations

import pytest

from trustee.tools.values import call_key, call_line, tells_error


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (True, '{"error": "x"}'),
        (True, '{"error": {"code": 4}}'),
        (False, '{"error": ""}'),
        (False, '{"found": 1}'),
        (False, "error"),
        (False, "[1]"),
    ],
)
def test_errors_are_objects_that_say_so(expected: bool, text: str) -> None:
    """Only an object with an error in it is one."""
    assert expected == tells_error(text)


def test_calls_with_the_same_values_have_one_key() -> None:
    """Order, case and the type of a number make no other call; tool and value do."""
    key = call_key("find", {"city": "Rome", "day": 1})
    assert key == call_key("find", {"day": 1.0, "city": " rome "})
    assert 3 == len({key, call_key("seek", {"city": "Rome", "day": 1}), call_key("find", {})})


def test_call_on_one_line() -> None:
    """Prompts and hints name a call and its arguments."""
    assert 'find {"city": "Rome"}' == call_line("find", {"city": "Rome"})
