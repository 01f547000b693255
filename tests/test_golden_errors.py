"""The golden file of error messages holds those of tests that there are, and notices a change."""

from __future__ import annotations

from pathlib import Path

import pytest

import golden_errors
from golden_errors import ErrorCheck, read_golden, write_golden

TESTS = Path(__file__).parent


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work with a golden file of one message."""
    monkeypatch.delenv("TRUSTEE_GOLDEN", raising=False)
    monkeypatch.setattr(golden_errors, "GOLDEN", tmp_path / "errors.json")
    write_golden("a.py::test_it", "{tmp_path}: steps is 0")
    monkeypatch.setattr(golden_errors, "read_golden", golden_errors.read_golden.__wrapped__)


def test_every_message_has_its_test() -> None:
    """A test that was renamed or deleted leaves no message behind."""
    places = {key.partition("[")[0].partition(" ")[0] for key in read_golden()}
    assert places
    lost = []
    for place in sorted(places):
        file, _, function = place.partition("::")
        path = TESTS / file
        if not (path.is_file() and f"def {function}(" in path.read_text(encoding="utf-8")):
            lost.append(place)
    assert [] == lost


def test_golden_file_holds_for_every_machine() -> None:
    """No message and no test's id has a path of the machine that wrote the file."""
    held = [text for message in read_golden().items() for text in message]
    assert [] == [text for text in held if str(TESTS.parent) in text or "/pytest-of-" in text]


@pytest.mark.usefixtures("golden")
def test_paths_have_names() -> None:
    """What differs from run to run is replaced before it is compared."""
    check = ErrorCheck("tests/a.py::test_it", {"/tmp/x7": "{tmp_path}"})
    check("/tmp/x7: steps is 0", "steps", 0)


@pytest.mark.usefixtures("golden")
@pytest.mark.parametrize(
    ("message", "named"),
    [("{tmp_path}: step is 0", "0"), ("{tmp_path}: steps is 0", "1")],
    ids=["other words", "not named"],
)
def test_other_messages_are_noticed(message: str, named: str) -> None:
    """Neither other words nor a name that is missing pass."""
    with pytest.raises(AssertionError):
        ErrorCheck("tests/a.py::test_it", {})(message, named)


@pytest.mark.usefixtures("golden")
def test_a_second_message_is_another() -> None:
    """Each message of a test has its own place."""
    write_golden("a.py::test_it 2", "more")
    check = ErrorCheck("a.py::test_it", {})
    check("{tmp_path}: steps is 0", "steps")
    check("more", "more")
    with pytest.raises(AssertionError):
        check("more", "more")
