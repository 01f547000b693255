"""How an exported model is spoken to."""

from __future__ import annotations

import jinja2

from trustee.engine.model_files import TINY
from trustee.export.speech import fix_marks, fix_thinking, read_speech
from trustee.rendering.chat_templates import PLAIN
from trustee.rendering.tokenizer import FolderTokenizer


def test_whether_it_thinks_is_fixed() -> None:
    """Programs that tell a template otherwise, or nothing, get what was trained."""
    template = "{%- if enable_thinking is defined and not enable_thinking %}quiet{%- endif %}"
    quiet = jinja2.Template(fix_thinking(template, thinking=False))
    loud = jinja2.Template(fix_thinking(template, thinking=True))
    assert ["quiet", "quiet", ""] == [
        quiet.render(),
        quiet.render(enable_thinking=True),
        loud.render(enable_thinking=False),
    ]


def test_marks_by_name_are_fixed() -> None:
    """A model without a first mark gets none, whatever another program takes for it."""
    template = "{{ bos_token }}hello{{ eos_token }}"
    fixed = jinja2.Template(fix_marks(template, {"eos_token": "</s>"}))
    assert "hello</s>" == fixed.render(bos_token="<jupyter_start>", eos_token="")
    assert "{{ messages }}" == fix_marks("{{ messages }}", {"bos_token": "<s>"})


def test_a_template_that_does_not_ask_stays() -> None:
    """Nothing is added where there is nothing to fix."""
    assert "{{ messages }}" == fix_thinking("{{ messages }}", thinking=False)


def test_the_mark_that_ends_a_turn_comes_first() -> None:
    """Programs that know one stop id know that one."""
    tokenizer = FolderTokenizer(TINY, PLAIN)
    speech = read_speech(tokenizer, PLAIN, turn_end="<|im_end|>")
    assert tokenizer.encode("<|im_end|>")[0] == speech.stop_ids[0]
    assert tokenizer.template == speech.template
