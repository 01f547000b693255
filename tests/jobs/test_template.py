"""A chat template given by the config: it is used, kept with the run and handed to the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripted_program import tiny_config
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.jobs.assemble import prepare_model, trainer_spec
from trustee.jobs.run_metadata import begin_record, read_trusted
from trustee.rendering.call_parser import CallFormat
from trustee.types import Message

OWN = (TINY / "chat_template.jinja").read_text(encoding="utf-8")


def test_a_run_reads_its_own_copy(tmp_path: Path) -> None:
    """Neither a change of the file nor its end changes a run that has begun."""
    file, folder = tmp_path / "mine.jinja", tmp_path / "run"
    file.write_text(OWN)
    folder.mkdir()
    given = tiny_config(f"model.template={file}", "model.call_format=hermes")
    begun = begin_record(given, folder)
    file.write_text("{{ 1 / 0 }}")
    for config in (begun, read_trusted(folder)):
        assert folder in Path(config.model.template or "").parents
        assert OWN == trainer_spec(config, TINY).template
        _, renderer = prepare_model(config)
        assert CallFormat.HERMES == renderer.call_format
    with pytest.raises(InputError, match=r"model\.template"):
        prepare_model(given)
    Path(begun.model.template or "").write_text(OWN + " ")
    with pytest.raises(InputError, match=r"sha256 of model\.template"):
        read_trusted(folder)


def test_a_template_of_the_package_stays_a_name(tmp_path: Path) -> None:
    """It is used by name, and the model's own is not written beside adapters."""
    config = begin_record(tiny_config("model.template=chatml"), tmp_path)
    assert "chatml" == config.model.template == read_trusted(tmp_path).model.template
    _, renderer = prepare_model(config)
    _, own = prepare_model(tiny_config())
    question = (Message(role="user", content="Hi"),)
    assert renderer.decode(renderer.open(question, ())).endswith("<|im_start|>assistant\n")
    assert "<tool_call>" in trainer_spec(config, TINY).template
    assert "" == trainer_spec(tiny_config(), TINY).template
    assert own.stop_ids == renderer.stop_ids
