"""`trustee export`: a run's model as files for other programs, each tested before it is named."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from trustee.config import Config
from trustee.engine.protocol import EngineProgress
from trustee.errors import InputError
from trustee.events import Emit, Note, Stage
from trustee.export.answers import (
    Agreement,
    Answer,
    answer_greedily,
    compare,
    demand,
    load_model,
    predict_with,
)
from trustee.export.conversations import (
    Conversation,
    demand_ids,
    demand_texts,
    make_conversations,
)
from trustee.export.gguf_file import WHOLE, Quant, write_gguf, write_gguf_adapter
from trustee.export.llama_child import LlamaQuestion, Prediction, ask_llama, has_llama
from trustee.export.merged_folder import write_merged
from trustee.export.merging import list_tensors
from trustee.export.speech import Speech, read_speech
from trustee.export.staging import staged
from trustee.jobs.assemble import choose_adapter, prepare_model
from trustee.jobs.held_out import HELD_OUT, read_whole
from trustee.jobs.stage_meter import metered
from trustee.rendering.chat_templates import ChatStyle, read_template
from trustee.rendering.tokenizer import FolderTokenizer
from trustee.runs.adapters import AdapterFile, fingerprint_base, read_adapter
from trustee.types import Record, Task

T = TypeVar("T")

QUANTISED_SHARE = 0.9
"""Smallest share of greedy tokens that a quantised file must have in common with the training."""


class Wanted(Record, frozen=True):
    """What is to be written, each under the name given; None: not wanted."""

    merged: Path | None = None
    gguf: Path | None = None
    quant: Quant = "bf16"
    gguf_adapter: Path | None = None
    tests: int = 8
    """Number of held-out tasks on which each file is tested; 0: no test."""


class Exported(Record, frozen=True):
    """One exported file or folder."""

    kind: str
    path: Path
    agreement: Agreement | None
    """How far it says what base and adapter say; None if it was not tested."""


class Exports(Record, frozen=True):
    """All that one call has exported."""

    adapter: Path
    base: Path
    files: tuple[Exported, ...]


class Subject(Record, frozen=True):
    """The model that is exported, and what it is tested on."""

    base: Path
    adapter: AdapterFile
    speech: Speech
    conversations: tuple[Conversation, ...]
    answers: tuple[Answer, ...]


async def export(
    config: Config, run: Path, wanted: Wanted, *, adapter: Path | None, emit: Emit
) -> Exports:
    """Write what is wanted, and test each through the file.

    Args:
        config: the run's config.
        run: the run's folder.
        wanted: what is to be written.
        adapter: PEFT or run folder; None is the run's own newest adapter.
        emit: receives progress events.

    Raises:
        InputError: if the run folder cannot be used, or a file is there already.
        RunError: if a file cannot be written or fails its test; then it is deleted.
    """
    subject = await in_thread(prepare_subject, config, run, adapter, wanted.tests, emit)
    files = []
    if wanted.merged is not None:
        files.append(await in_thread(export_merged, subject, wanted.merged, emit))
    if wanted.gguf is not None:
        files.append(await in_thread(export_gguf, subject, wanted.gguf, wanted.quant, emit))
    if wanted.gguf_adapter is not None:
        files.append(await in_thread(export_gguf_adapter, subject, wanted.gguf_adapter, emit))
    return Exports(adapter=subject.adapter.folder, base=subject.base, files=tuple(files))


async def in_thread(act: Callable[..., T], *given: object) -> T:
    """Run what computes or writes for long in a thread, to its end."""
    return await anyio.to_thread.run_sync(partial(act, *given))


def prepare_subject(
    config: Config, run: Path, adapter: Path | None, tests: int, emit: Emit
) -> Subject:
    """Check base and adapter, and let the reference answer what the files are tested on."""
    base, renderer = prepare_model(config)
    found = read_adapter(choose_adapter(config, adapter or run, base, emit=emit))
    if not found.fingerprint:
        emit(Note(text=f"{found.folder} does not say which weights it was trained on"))
    elif found.fingerprint != fingerprint_base(base):
        raise InputError(f"{found.folder} was trained on other weights than {base} (model.path)")
    style = ChatStyle(
        thinking=config.model.thinking,
        template=read_template(config.model.template),
        call_format=config.model.call_format,
    )
    tokenizer = FolderTokenizer(base, style)
    conversations = make_conversations(read_tasks(run, tests), tokenizer)
    answers: tuple[Answer, ...] = ()
    if conversations:
        name = f"letting base and adapter answer {len(conversations)} prompts"
        with metered(
            name, emit, of=len(conversations), unit="answers", engine=EngineProgress
        ) as meter:
            model = load_model(base, found.folder)
            prompts = [tuple(tokenizer.encode(one.text)) for one in conversations]
            answers = answer_greedily(model, prompts, stop_ids=tokenizer.stop_ids, done=meter.count)
            del model
    else:
        emit(Note(text="nothing is tested, so nothing shows that the files say what was trained"))
    return Subject(
        base=base,
        adapter=found,
        speech=read_speech(tokenizer, style, turn_end=renderer.end_of_turn),
        conversations=conversations,
        answers=answers,
    )


def read_tasks(run: Path, count: int) -> Sequence[Task]:
    """Return the first held-out tasks of a run.

    Raises:
        InputError: if there are none, and some are wanted.
    """
    if count == 0:
        return ()
    tasks = read_whole(run / HELD_OUT, Task)
    if not tasks:
        raise InputError(
            f"{run} holds no whole {HELD_OUT}, on which exports are tested; run trustee eval on it "
            "once, or export without a test, with --tests 0"
        )
    return tasks[:count]


def export_merged(subject: Subject, final: Path, emit: Emit) -> Exported:
    """Write the merged model, load it with transformers, and compare prompts and answers."""
    count = len(list_tensors(subject.base))
    with staged(final) as folder:
        name = f"writing {final}"
        with metered(name, emit, of=count, unit="tensors", engine=EngineProgress) as meter:
            write_merged(
                subject.base, subject.adapter, folder, speech=subject.speech, written=meter.count
            )
        return Exported(
            kind="merged", path=final, agreement=check_merged(subject, folder, final, emit)
        )


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


def export_gguf(subject: Subject, final: Path, quant: Quant, emit: Emit) -> Exported:
    """Write the merged model as GGUF, load it with llama.cpp, and compare prompts and answers."""
    count = len(list_tensors(subject.base))
    with staged(final) as file:
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
        agreement = check_gguf(subject, file, None, final, share=share, emit=emit)
        return Exported(kind=f"gguf {quant}", path=final, agreement=agreement)


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


def export_text(exports: Exports) -> str:
    """Return what was exported as readable text."""
    return "\n".join(_line(one) for one in exports.files)


def _line(one: Exported) -> str:
    found = one.agreement
    if found is None:
        return f"{one.kind:<12} {one.path}  not tested"
    return (
        f"{one.kind:<12} {one.path}  prompts equal to the character, {found.equal} of "
        f"{found.tokens} greedy tokens equal, {found.ties} ties, at most {found.worst:.3f} nats off"
    )
