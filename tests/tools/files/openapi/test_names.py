"""Every operation gets a name of its own, which can be used, and a change of it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tool_documents import write
from trustee.tools.files import import_tools
from trustee.tools.files.notices import Notices
from trustee.tools.selection import Selection


def read_names(tmp_path: Path, *operations: tuple[str, str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of operations, given as path, method and operationId, and the notices."""
    paths: dict[str, Any] = {}
    for path, method, identifier in operations:
        operation = {} if identifier is None else {"operationId": identifier}
        paths.setdefault(path, {})[method] = operation
    notices = Notices()
    file = write(tmp_path, {"openapi": "3.0.3", "paths": paths})
    return [tool.name for tool in import_tools(file, notices=notices)], notices.lines()


def test_punctuation_is_replaced_without_a_word(tmp_path: Path) -> None:
    """Names that only lose signs are not worth a notice."""
    names, lines = read_names(tmp_path, ("/a", "get", "pets/show:one"), ("/b/{c}", "get", None))
    assert (names, lines) == (["pets_show_one", "get_b_c"], [])


def test_a_name_that_is_taken_gets_method_and_path(tmp_path: Path) -> None:
    """The second operation with an id is told from the first by where it is."""
    names, lines = read_names(tmp_path, ("/a", "get", "list"), ("/b", "get", "list"))
    assert names == ["list", "list_get_b"]
    assert lines == ['names changed to be usable and unique: GET /b: "list" is "list_get_b"']


def test_equal_spellings_are_numbered(tmp_path: Path) -> None:
    """Paths that are spelt alike, without an id, are numbered."""
    names, _ = read_names(
        tmp_path, ("/a/{b}", "get", None), ("/a/b", "get", None), ("/a.b", "get", None)
    )
    assert names == ["get_a_b", "get_a_b_2", "get_a_b_3"]


def test_long_names_stay_unique(tmp_path: Path) -> None:
    """Ids that are equal in their first 64 characters give names of at most 64."""
    long = "x" * 64
    names, lines = read_names(
        tmp_path, ("/a", "get", long + "a"), ("/b", "get", long + "b"), ("/c", "get", "y" * 64)
    )
    assert names == [long, "x" * 58 + "_get_b", "y" * 64]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("获取用户", "get_users_id"),
        ("getÜbersicht", "getUbersicht"),
        ("获取user", "user"),
        ("///", "get_users_id"),
        ("", "get_users_id"),
        (5, "get_users_id"),
    ],
)
def test_other_letters_give_a_usable_name(tmp_path: Path, identifier: Any, name: str) -> None:
    """Accents are dropped, other letters left out; what is empty is named by its path."""
    names, _ = read_names(tmp_path, ("/users/{id}", "get", identifier))
    assert names == [name]


def test_many_equal_ids_are_named(tmp_path: Path) -> None:
    """Names of many operations with one id, and paths in other letters, are all different."""
    names, _ = read_names(tmp_path, *((f"/用{chr(0x4E00 + i)}", "get", "同") for i in range(500)))
    assert len(set(names)) == 500


def test_a_name_does_not_depend_on_the_choice(tmp_path: Path) -> None:
    """An operation that is not wanted still takes its name."""
    item = {"get": {"operationId": "f"}, "post": {"operationId": "f"}}
    file = write(tmp_path, {"openapi": "3.0.3", "paths": {"/a": item}})
    (tool,) = import_tools(file, Selection(only=("POST /a",)))
    assert tool.name == "f_post_a"
    assert import_tools(file, Selection(skip=("f",))) == (tool,)
