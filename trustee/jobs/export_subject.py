"""What `trustee export` is to write, and the model, prompts and answers that it is tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from trustee.config import Config
from trustee.engine.protocol import EngineProgress
from trustee.errors import InputError
from trustee.events import Emit, Note
from trustee.export.answers import (
    Agreement,
    Answer,
    answer_greedily,
    load_model,
)
from trustee.export.card import write_card
from trustee.export.conversations import (
    Conversation,
    demand_texts,
    make_conversations,
)
from trustee.export.gguf_file import Quant
from trustee.export.hub import check_repository, require_token
from trustee.export.ollama_dialects import Dialect, recognise, speak
from trustee.export.speech import Speech, read_speech
from trustee.jobs.assemble import choose_adapter, prepare_model
from trustee.jobs.card import ExportedFile, gather_facts
from trustee.jobs.export_play import PlayedFile, play_from_thread, read_reference
from trustee.jobs.held_out import HELD_OUT, read_whole
from trustee.jobs.stage_meter import metered
from trustee.rendering.chat_templates import ChatStyle, read_template
from trustee.rendering.tokenizer import FolderTokenizer
from trustee.runs.adapters import AdapterFile, fingerprint_base, read_adapter
from trustee.types import Record, Task


class Wanted(Record, frozen=True):
    """What is to be written, each under the name given; None: not wanted."""

    merged: Path | None = None
    gguf: Path | None = None
    quant: Quant = "bf16"
    gguf_adapter: Path | None = None
    ollama: Path | None = None
    card: bool = False
    """Whether folders get a model card; what is pushed always has one."""
    push: str | None = None
    """Repository of a hub that gets what is written, or else the adapter."""
    public: bool = False
    """Whether a new repository is public."""
    play: int = 0
    """Number of held-out tasks that are played through each whole GGUF file; 0: none."""
    tests: int = 8
    """Number of held-out tasks on which each file is tested; 0: no test."""


class Exported(Record, frozen=True):
    """One exported file or folder."""

    kind: str
    path: Path
    agreement: Agreement | None
    """How far it says what base and adapter say; None if it was not tested."""
    played: PlayedFile | None = None
    """Held-out success through it; None if nothing was played."""


class Subject(Record, frozen=True):
    """The model that is exported, and what it is tested on."""

    base: Path
    adapter: AdapterFile
    speech: Speech
    conversations: tuple[Conversation, ...]
    answers: tuple[Answer, ...]
    dialect: Dialect | None = None
    """How Ollama is told to speak; None if it is not asked for."""
    context: int = 0
    """Most tokens of prompt and answer."""
    play: Callable[[Path, Path], PlayedFile] | None = None
    """Plays held-out tasks through a GGUF file, by its place and its final name."""
    write_card: Callable[[str, str, Agreement | None], str] | None = None
    """Gives the card of a file by kind, name and test; None if none is wanted."""


def check_wanted(wanted: Wanted) -> None:
    """Refuse what cannot be done, before anything is loaded.

    Raises:
        InputError: naming what is missing or too much.
    """
    folders = [place for place in (wanted.merged, wanted.ollama) if place is not None]
    if wanted.card and not folders and wanted.push is None:
        raise InputError("--card writes README.md into a folder; add --merged, --ollama or --push")
    if wanted.public and wanted.push is None:
        raise InputError("--public is about what --push makes; add --push OWNER/NAME")
    if wanted.push is None:
        return
    check_repository(wanted.push)
    if len(folders) > 1:
        raise InputError("--push takes one folder at a time: --merged or --ollama")
    require_token()


def prepare_subject(
    config: Config, run: Path, adapter: Path | None, wanted: Wanted, emit: Emit
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
    conversations = make_conversations(read_tasks(run, wanted.tests), tokenizer)
    dialect = choose_dialect(tokenizer, conversations) if wanted.ollama is not None else None
    speech = read_speech(tokenizer, style, turn_end=renderer.end_of_turn)
    if wanted.play:
        read_reference(run, wanted.play)
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
        speech=speech,
        conversations=conversations,
        answers=answers,
        dialect=dialect,
        context=config.engine.context,
        play=player_of(config, run, wanted.play, speech.stop_ids, emit) if wanted.play else None,
        write_card=card_writer(config, run, base, found.folder)
        if wanted.card or wanted.push
        else None,
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


def choose_dialect(tokenizer: FolderTokenizer, conversations: Sequence[Conversation]) -> Dialect:
    """Return how Ollama is told to speak, where that is how the training spoke.

    Raises:
        InputError: if the chat template has no counterpart.
        RunError: if a conversation of the training is rendered otherwise.
    """
    dialect = recognise(partial(tokenizer.apply, add_generation_prompt=True))
    spoken = [speak(dialect, one.messages, one.tools) for one in conversations]
    demand_texts(conversations, spoken, what="Ollama's template")
    return dialect


def player_of(
    config: Config, run: Path, count: int, stop_ids: Sequence[int], emit: Emit
) -> Callable[[Path, Path], PlayedFile]:
    """Return what plays held-out tasks through a file."""

    def play(file: Path, final: Path) -> PlayedFile:
        return play_from_thread(
            config, run, file, count=count, stop_ids=stop_ids, final=final, emit=emit
        )

    return play


def card_writer(
    config: Config, run: Path, base: Path, adapter: Path
) -> Callable[[str, str, Agreement | None], str]:
    """Return what writes the card of an exported file."""

    def write(kind: str, name: str, agreement: Agreement | None) -> str:
        file = ExportedFile(kind=kind, name=name, agreement=agreement)
        return write_card(gather_facts(config, run, base=base, adapter=adapter, files=[file]))

    return write
