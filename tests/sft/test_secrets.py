"""No spelling of a secret stays in a text."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.sft.secrets import LEFT_OUT, MARK, Secrets

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": lambda key: json.dumps({"Authorization": f"Bearer {key}"}),
    "json twice": lambda key: json.dumps(json.dumps({"key": key})),
    "json, slashes escaped": lambda key: json.dumps(key).replace("/", "\\/"),
    "json, all escaped": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "bytes": lambda key: repr(f"Bearer {key}".encode()),
    "escaped bytes": lambda key: "".join(f"\\x{ord(letter):02x}" for letter in key),
    "url": lambda key: quote(key, safe=""),
    "form": quote_plus,
    "url, all quoted": lambda key: "".join(f"%{ord(letter):02x}" for letter in key),
    "url twice": lambda key: quote(quote(key, safe=""), safe=""),
    "html": lambda key: html.escape(key),
    "html, all": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "hex": lambda key: key.encode().hex(),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of Basic": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 of Bearer": lambda key: base64.b64encode(f"Bearer {key}!".encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(f"ab{key}cd".encode()).decode(),
    "upper case": str.upper,
    "folded": lambda key: f"{key[:5]}\r\n {key[5:]}",
}
LETTERS = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


@pytest.mark.parametrize("name", SPELLINGS)
@given(key=st.text(LETTERS, min_size=12, max_size=80), around=st.text(max_size=5))
def test_no_spelling_stays(name: str, key: str, around: str) -> None:
    """Neither in what is shown nor in what a teacher may say."""
    written = SPELLINGS[name](key)
    secrets = Secrets([key])
    shown = secrets.redact(f"{around} {written} {around}")
    assert written not in shown
    assert not secrets.holds(shown)
    assert secrets.holds(f"{around} {written} {around}")


@given(st.text(max_size=200))
def test_other_texts_stay(text: str) -> None:
    """What holds no secret is as it was, also without a secret."""
    assert text == Secrets([]).redact(text)
    assert not Secrets([]).holds(text)
    assert text == Secrets(["sk-0123456789abcdef"]).redact(text)


def test_a_short_key_is_no_secret_that_voids_answers() -> None:
    """Servers without keys are given words such as EMPTY, which anybody may say."""
    secrets = Secrets(["EMPTY", "x"])
    assert "bad key ..., it is empty" == secrets.redact("bad key EMPTY, it is empty")
    assert not secrets.holds("the list is EMPTY")


def test_only_the_key_is_cut_out() -> None:
    """The rest of an error helps."""
    secrets = Secrets(["sk-0123456789"])
    assert f"bad key {MARK}, ask" == secrets.redact("bad key sk-0123456789, ask")
    assert LEFT_OUT == secrets.redact("bad key SK-0123456789, ask")
    assert "0123" not in repr(secrets)
