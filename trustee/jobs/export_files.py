"""The files of `trustee export`, each written, read back by its program, and only then named."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trustee.engine.protocol import EngineProgress
from trustee.events import Emit, Note, Stage
from trustee.export.answers import (
    Agreement,
    compare,
    demand,
    load_model,
    predict_with,
)
from trustee.export.card import CARD
from trustee.export.conversations import (
    demand_ids,
    demand_texts,
)
from trustee.export.gguf_file import WHOLE, Quant, write_gguf, write_gguf_adapter
from trustee.export.llama_child import LlamaQuestion, Prediction, ask_llama, has_llama
from trustee.export.merged_folder import write_merged
from trustee.export.merging import list_tensors
from trustee.export.ollama import MODELFILE, write_modelfile
from trustee.export.staging import staged
from trustee.jobs.export_subject import Exported, Subject
from trustee.jobs.stage_meter import metered

GGUF = "model.gguf"
"""Name of the file in a folder for Ollama."""
QUANTISED_SHARE = 0.9
"""Smallest share of greedy tokens that a quantised file must have in common with the training."""


def export_merged(subject: Subject, final: Path, emit: Emit) -> Exported:
    """Write the merged model, load it with transformers, and compare prompts and answers."""
    count = len(list_tensors(subject.base))
    with staged(final) as folder:
        name = f"writing {final}"
        with metered(name, emit, of=count, unit="tensors", engine=EngineProgress) as meter:
            write_merged(
                subject.base, subject.adapter, folder, speech=subject.speech, written=meter.count
            )
        agreement = check_merged(subject, folder, final, emit)
        add_card(subject, folder, "merged", final.name, agreement)
        return Exported(kind="merged", path=final, agreement=agreement)


def check_merged(subject: Subject, folder: Path, final: Path, emit: Emit) -> Agreement | None:
    """Compare what transformers makes of a folder with the training's prompts and answers."""
    if not subject.conversations:
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    rendered = [
        tokenizer.apply_chat_template(
            list(one.messages),
            tools=list(one.tools) or None,
            tokenize=False,
            add_generation_prompt=True,
        )
        for one in subject.conversations
    ]
    demand_texts(subject.conversations, rendered, what=str(final))
    count = len(subject.answers)
    with metered(
        f"testing {final}", emit, of=count, unit="answers", engine=EngineProgress
    ) as meter:
        model = load_model(folder)
        said = []
        for answer in subject.answers:
            said.append(predict_with(model, answer))
            meter.count()
    agreement = compare(subject.answers, said)
    demand(agreement, share=1.0, what=str(final))
    return agreement


def add_card(
    subject: Subject, folder: Path, kind: str, name: str, agreement: Agreement | None
) -> None:
    """Write the card of a folder into it, if one is wanted."""
    if subject.write_card is not None:
        text = subject.write_card(kind, name, agreement)
        (folder / CARD).write_text(text, encoding="utf-8")


def export_gguf(subject: Subject, final: Path, quant: Quant, emit: Emit) -> Exported:
    """Write the merged model as GGUF, load it with llama.cpp, and compare prompts and answers."""
    with staged(final) as file:
        agreement = fill_gguf(subject, file, final, quant, emit)
        played = subject.play(file, final) if subject.play else None
        return Exported(kind=f"gguf {quant}", path=final, agreement=agreement, played=played)


def fill_gguf(
    subject: Subject, file: Path, final: Path, quant: Quant, emit: Emit
) -> Agreement | None:
    """Write the merged model into a file, and test that file; `final` is how it will be called."""
    count = len(list_tensors(subject.base))
    with metered(
        f"writing {final}", emit, of=count, unit="tensors", engine=EngineProgress
    ) as meter:
        write_gguf(
            subject.base,
            subject.adapter,
            file,
            speech=subject.speech,
            quant=quant,
            name=final.stem,
            written=meter.count,
        )
    share = 1.0 if quant in WHOLE else QUANTISED_SHARE
    return check_gguf(subject, file, None, final, share=share, emit=emit)


def export_gguf_adapter(subject: Subject, final: Path, emit: Emit) -> Exported:
    """Write the adapter as GGUF, and test it beside a base that is written for the test alone."""
    with staged(final) as file:
        write_gguf_adapter(subject.base, subject.adapter, file, name=final.stem)
        agreement = None
        if subject.conversations and has_llama():
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                base = Path(scratch) / "base.gguf"
                write_gguf(
                    subject.base, None, base, speech=subject.speech, quant="bf16", name="base"
                )
                agreement = check_gguf(subject, base, file, final, share=1.0, emit=emit)
        return Exported(kind="gguf adapter", path=final, agreement=agreement)


def export_ollama(subject: Subject, final: Path, quant: Quant, emit: Emit) -> Exported:
    """Write a folder for Ollama; the GGUF file in it is tested with llama.cpp."""
    assert subject.dialect is not None, "chosen where this is wanted"
    with staged(final) as folder:
        folder.mkdir()
        agreement = fill_gguf(subject, folder / GGUF, final, quant, emit)
        played = subject.play(folder / GGUF, final) if subject.play else None
        text = write_modelfile(
            subject.dialect,
            GGUF,
            context=subject.context,
            notes=[f"a LoRA of trustee merged into {subject.base.name}; then: ollama create NAME"],
        )
        (folder / MODELFILE).write_text(text, encoding="utf-8")
        add_card(subject, folder, "ollama", final.name, agreement)
        emit(
            Note(
                text="Ollama itself was not asked; it writes the schemas of tools and arguments as "
                "JSON of its own, without blanks and with keys in its own order"
            )
        )
        return Exported(kind=f"ollama {quant}", path=final, agreement=agreement, played=played)


def check_gguf(
    subject: Subject, model: Path, adapter: Path | None, final: Path, *, share: float, emit: Emit
) -> Agreement | None:
    """Compare what llama.cpp makes of a file with the training's prompts, ids and answers."""
    if not subject.conversations:
        return None
    if not has_llama():
        emit(Note(text=f"{final} is not tested: pip install 'trustee[export]' brings llama.cpp"))
        return None
    emit(Stage(name=f"testing {final} with llama.cpp"))
    answers = subject.answers
    found = ask_llama(
        LlamaQuestion(
            model=str(model),
            adapter=str(adapter) if adapter else None,
            conversations=tuple(
                {"messages": one.messages, "tools": one.tools}
                if one.tools
                else {"messages": one.messages}
                for one in subject.conversations
            ),
            predictions=tuple(Prediction(prompt=a.prompt, ids=a.ids) for a in answers),
            context=max(len(a.prompt) + len(a.ids) for a in answers) + 8,
        )
    )
    demand_texts(subject.conversations, found.texts, what=str(final))
    demand_ids([a.prompt for a in answers], found.ids, what=str(final))
    agreement = compare(answers, found.said)
    demand(agreement, share=share, what=str(final))
    return agreement
