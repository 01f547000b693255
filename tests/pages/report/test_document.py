"""HTML is made of text that cannot become anything else."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.pages.report.document import Markup, element, style


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.values: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(markup: Markup) -> Reader:
    """Read a piece of HTML."""
    reader = Reader()
    reader.feed(markup.html)
    reader.close()
    return reader


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_any_text_stays_text(text: str) -> None:
    """In an element and in an attribute, one element comes back and both texts are whole."""
    found = read(element("p", text, title=text))
    assert ["p"] == found.tags
    assert text == "".join(found.texts)
    assert [text] == found.values


def test_letters_that_no_document_holds_are_shown_as_such() -> None:
    """NUL, escapes and lone halves of letters."""
    assert "<p>a\ufffdb\ufffdc\ufffd</p>" == element("p", "a\x00b\x1bc\ud800").html


def test_children_may_be_nested_and_left_out() -> None:
    """Lists, elements and None."""
    made = element("ul", [element("li", "a"), None, [element("li", "b")]], class_="x", hidden=True)
    assert '<ul class="x" hidden><li>a</li><li>b</li></ul>' == made.html


def test_a_sheet_that_ends_itself_is_refused() -> None:
    """A style sheet is the only thing that goes in unescaped."""
    with pytest.raises(ValueError, match="end tag"):
        style("p {} </style><script>")
