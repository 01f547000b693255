"""What is refused by reading a source, before anything runs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from building_answers import LANGUAGE, document, function
from trustee.environments.executable.building.documents import Document
from trustee.environments.executable.building.lint import MOST_CHARACTERS, check_source

TOOL = msgspec.convert(document("find_height", LANGUAGE), Document).tool
HEAD = "def find_height(subject, language='english'):\n"


def kind_of(source: str) -> str:
    """Give the kind of a source's flaw, or nothing."""
    flaw = check_source(source, TOOL)
    return "" if flaw is None else flaw.kind


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("", function("find_height", {"Ostwacht": "214 m"})),
        ("", f"{HEAD}    import datetime\n    from collections import Counter\n    return 1"),
        ("", "def find_height(subject, *, language='english'):\n    return 1"),
        ("syntax", "def find_height(:"),
        ("syntax", "def find_height():\n    return 1\x00"),
        ("not_one_function", ""),
        ("not_one_function", "1"),
        ("not_one_function", f"import re\n{HEAD}    return 1"),
        ("not_one_function", f"{HEAD}    return 1\nfind_height(1)"),
        ("not_one_function", "def find_weight(subject, language=''):\n    return 1"),
        ("not_one_function", f"async {HEAD}    return 1"),
        ("not_one_function", f"@print\n{HEAD}    return 1"),
        ("not_one_function", "find_height = lambda subject, language='': 1"),
        ("signature", "def find_height(subject):\n    return 1"),
        ("signature", "def find_height(subject, language):\n    return 1"),
        ("syntax", "def find_height(subject, language=''): * 0"),
        ("signature", "def find_height(subject=1, language=1):\n    return 1"),
        ("signature", "def find_height(subject, language='', *more):\n    return 1"),
        ("signature", "def find_height(subject, language='', **more):\n    return 1"),
        ("signature", "def find_height(subject, /, language=''):\n    return 1"),
        ("import", f"{HEAD}    import os"),
        ("import", f"{HEAD}    import json, socket"),
        ("import", f"{HEAD}    import importlib.util"),
        ("import", f"{HEAD}    from . import json"),
        ("import", f"{HEAD}    def inner():\n        import random\n    return 1"),
        ("forbidden", f"{HEAD}    return open('x')"),
        ("forbidden", f"{HEAD}    return __import__('os')"),
        ("forbidden", f"{HEAD}    return subject.__class__"),
        ("forbidden", f"{HEAD}    global x\n    x = 1"),
        ("long_source", f"{HEAD}    return {'1' * MOST_CHARACTERS}"),
    ],
)
def test_sources(kind: str, source: str) -> None:
    """Each fault of a source has its kind; a plain function has none."""
    assert kind == kind_of(source)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"{HEAD}    {text}"))
@settings(max_examples=150)
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_any_text_gets_a_verdict(source: str) -> None:
    """Reading a source never fails; one that passes is Python."""
    if kind_of(source) == "":
        compile(source, "source", "exec")
