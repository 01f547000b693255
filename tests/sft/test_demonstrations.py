"""Demonstrations: rows and reasons, and ids that are those of an episode."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dice import Dice
from qwen_tokenizer import FEW, write_model
from scripts import cast, make_player, make_simulator, perfect
from trustee.algorithm.batch import to_sample
from trustee.engine.model_files import TINY
from trustee.engine.scripted import STOP, ScriptedEngine, scripted_renderer
from trustee.environments.micro.environment import Microworld
from trustee.environments.protocol import Services
from trustee.errors import InputError
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.rollout import Limits
from trustee.runs.store import EpisodeLine
from trustee.sft.demonstration_files import read_demonstrations
from trustee.sft.demonstrations import Demonstration, RefusedRow
from trustee.sft.samples import as_sample, make_dataset, render_demonstration, write_message
from trustee.tiny.lessons import FAULTLESS, teach
from trustee.types import BadCall, Failure, Message, Role, Stop, Tool, ToolCall, Trajectory

TOOL = Tool(
    name="look",
    description="look",
    parameters={"type": "object", "properties": {"at": {"type": ["integer", "array"]}}},
)
ASKED = Message(role="user", content="look there")
CALL = Message(role="assistant", calls=(ToolCall(id="a", name="look", arguments={"at": 3}),))
FOUND = Message(role="tool", content='{"seen": 7}', call_id="a")
SAID = Message(role="assistant", content="seven")


def show(*messages: Message, task_id: str = "t") -> Demonstration:
    """Make a demonstration with one tool."""
    return Demonstration(task_id=task_id, tools=(TOOL,), messages=messages)


GOOD = show(ASKED, CALL, FOUND, SAID)


async def play(world: Any) -> tuple[Any, Trajectory]:
    """Play one episode of a scripted policy that makes no mistake."""
    engine = ScriptedEngine(cast(perfect), context=8192)
    simulator = make_simulator(engine)
    source = world.source(seed=1)
    spec = source.draw()
    services = Services(simulator=simulator, rng=random.Random(0))
    task = await source.write(spec, services)
    player = make_player(
        world.environment, engine, serve=lambda rng: services, limits=Limits(tokens=600)
    )
    return task, await player.play(task, trajectory_id="0/0", adapter=None, seed=0)


@pytest.mark.anyio
async def test_a_demonstration_has_the_ids_of_its_episode() -> None:
    """What was played and what is rendered of its messages are the same sample."""
    task, trajectory = await play(Microworld())
    assert (Stop.DONE, 1.0) == (trajectory.stop, trajectory.reward)
    said = [m for turn in trajectory.turns for m in (turn.message, *turn.replies)]
    shown = Demonstration(task_id="t", tools=task.tools, messages=(*task.messages, *said))
    expected = to_sample(trajectory, advantage=1.0)
    rendered = render_demonstration(shown, scripted_renderer())
    assert (expected.ids, expected.mask) == (rendered.ids, rendered.mask)
    assert (1.0, 0, "t") == (rendered.advantage, rendered.version, rendered.trajectory_id)
    kept = as_sample(trajectory, scripted_renderer())
    assert msgspec.structs.replace(expected, version=0) == kept


@pytest.mark.anyio
async def test_an_episode_of_several_branches_is_no_demonstration() -> None:
    """A demonstration is one conversation."""
    _, trajectory = await play(Microworld())
    first, *rest = trajectory.turns
    turns = (first, *(msgspec.structs.replace(turn, anew=True) for turn in rest))
    with pytest.raises(InputError, match="several branches"):
        as_sample(msgspec.structs.replace(trajectory, turns=turns), scripted_renderer())


def test_the_mask_covers_what_the_policy_says() -> None:
    """Each message of the assistant is learnt with its stop id, and nothing else."""
    renderer = scripted_renderer()
    sample = render_demonstration(GOOD, renderer)
    learnt = [id for id, own in zip(sample.ids, sample.mask, strict=True) if own]
    text = '<tool_call>{"name": "look", "arguments": {"at": 3}}</tool_call><|im_end|>'
    assert f"{text}seven<|im_end|>" == renderer.decode(learnt)
    assert renderer.decode(sample.ids).endswith("<|im_start|>assistant\nseven<|im_end|>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("qwen3", Message(role="assistant", content="so it is")),
        ("qwen3", msgspec.structs.replace(CALL, content="let me see")),
        ("qwen2_5", CALL),
        ("llama3_1", CALL),
        ("tiny", CALL),
    ],
)
def test_messages_are_written_as_models_write_them(
    tmp_path: Path, template: str, message: Message
) -> None:
    """The ids decode to the message, end in a stop id, and hold no part of the prompt."""
    renderer = load(tmp_path, template)
    ids = write_message(message, renderer)
    assert ids[-1] in renderer.stop_ids
    assert "assistant" not in renderer.decode(ids)
    read = renderer.parse(ids, call_prefix="")
    assert message.content == read.content
    assert [("look", {"at": 3})] * len(message.calls) == [
        (call.name, call.arguments) for call in read.calls if isinstance(call, ToolCall)
    ]


def load(folder: Path, template: str, *, thinking: bool = False) -> Renderer:
    """Load the renderer of a model family."""
    if template == "tiny":
        return Renderer.load(TINY)
    model = write_model(folder / "model", template=template, words=FEW)
    return Renderer.load(model, ChatStyle(thinking=thinking))


def test_lessons_of_the_micro_world_can_be_imitated() -> None:
    """Every faultless dialogue becomes a sample of the built-in model."""
    renderer = Renderer.load(TINY)
    rng = random.Random(3)
    for _ in range(20):
        lesson = teach(rng, habits=FAULTLESS)[-1]
        shown = Demonstration(task_id="t", tools=lesson.tools, messages=lesson.messages)
        sample = render_demonstration(shown, renderer)
        ends = [
            at
            for at, own in enumerate(sample.mask)
            if own and (at + 1 == len(sample.mask) or not sample.mask[at + 1])
        ]
        spoken = sum(message.role == "assistant" for message in lesson.messages)
        assert spoken == len(ends)
        assert {True} == {sample.ids[at] in renderer.stop_ids for at in ends}


BAD = Message(role="assistant", calls=(BadCall(id="a", text="{look", reason="not JSON"),))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ASKED], "it has no message of role assistant"),
        ([SAID, ASKED], "its first message is the assistant's; somebody must ask first"),
        (
            [ASKED, BAD],
            "assistant message 0 is read as text '{look' once it is rendered, and says call "
            "BadCall(id='', text='{look', reason='')",
        ),
        (
            [ASKED, Message(role="assistant", content="<tool_call>{}</tool_call>")],
            "assistant message 0 is read as call BadCall",
        ),
    ],
)
def test_refused_demonstrations(messages: Sequence[Message], reason: str) -> None:
    """What cannot be imitated is refused with the reason."""
    with pytest.raises(InputError) as caught:
        render_demonstration(show(*messages), scripted_renderer())
    assert str(caught.value).startswith(reason)


def write(path: Path, *rows: Any) -> Path:
    """Write rows of a file; text stays as it is."""
    lines = [row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows]
    path.write_bytes(b"\n".join(lines))
    return path


def test_broken_rows_are_told_and_the_rest_is_used(tmp_path: Path) -> None:
    """Rows are counted from 1, reasons say what was wrong, good rows keep their order."""
    long = show(ASKED, Message(role="assistant", content="x" * 900))
    failed = Trajectory(
        id="0/0",
        task_id="t",
        turns=(),
        stop=Stop.FAILED,
        failure=Failure(source=Role.TOOL, kind="k", message="m"),
    )
    lost = Trajectory(id="0/1", task_id="t", turns=(), stop=Stop.DONE, rewards={"r": -1.0})
    path = write(
        tmp_path / "shown.jsonl",
        b"{",
        GOOD,
        b"",
        {"task_id": "t", "tools": []},
        long,
        EpisodeLine(group=0, member=0, trajectory=failed),
        lost,
        msgspec.structs.replace(GOOD, task_id="last"),
    )
    reading = read_demonstrations(path)
    dataset = make_dataset(reading, scripted_renderer(), context=600)
    assert ("t", "last") == dataset.task_ids
    assert [
        RefusedRow(row=1, reason="not JSON: Input data was truncated"),
        RefusedRow(row=4, reason=dataset.refused[1].reason),
        RefusedRow(row=5, reason=dataset.refused[2].reason),
        RefusedRow(row=6, reason="the episode failed because of tool"),
        RefusedRow(row=7, reason="the episode's reward is -1 and must be above 0"),
    ] == list(dataset.refused)
    assert dataset.refused[1].reason.startswith("its keys are task_id, tools; a demonstration has")
    assert "ids long and engine.context is 600" in dataset.refused[2].reason


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "holds nothing that can be imitated: it is empty"),
        ((b"{",) * 5, "imitated: row 1: not JSON: Input data was truncated; row 2"),
        ((b"{",) * 5, "; and 2 more"),
    ],
)
def test_file_without_a_row(tmp_path: Path, rows: tuple[bytes, ...], message: str) -> None:
    """A file of which nothing can be used is bad input."""
    with pytest.raises(InputError) as caught:
        read_demonstrations(write(tmp_path / "shown.jsonl", *rows))
    assert message in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A path that is not there is named."""
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read \(No such file"):
        read_demonstrations(tmp_path / "gone.jsonl")


def test_folder_means_its_demonstrations(tmp_path: Path) -> None:
    """Collected demonstrations go before episodes."""
    write(tmp_path / "demonstrations.jsonl", GOOD)
    assert [GOOD] == [row.example for row in read_demonstrations(tmp_path).rows]


@pytest.mark.anyio
async def test_episode_of_another_model_is_refused(tmp_path: Path) -> None:
    """Ids that do not say what the messages say cannot be imitated."""
    _, trajectory = await play(Dice())
    path = tmp_path / "episodes.jsonl"
    turn = msgspec.structs.replace(trajectory.turns[0], message=SAID)
    other = msgspec.structs.replace(
        trajectory, turns=(turn, *trajectory.turns[1:]), rewards={"r": 1.0}
    )
    write(path, EpisodeLine(group=0, member=0, trajectory=other))
    with pytest.raises(InputError, match="the ids of turn 0 do not say what its message says"):
        make_dataset(read_demonstrations(tmp_path), scripted_renderer(), context=9000)


def test_scripted_stop_is_known() -> None:
    """The scripted renderer ends messages with its one stop id."""
    assert STOP == write_message(SAID, scripted_renderer())[-1]


@pytest.mark.parametrize(
    "template", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_5_nothink", "llama3_1"]
)
@pytest.mark.parametrize("content", ["\n\ndone", "\n", "\tdone", " done", "done\n"])
def test_text_that_would_merge_with_the_prompt(tmp_path: Path, template: str, content: str) -> None:
    """Ids begin after the prompt's last one, as in sampling, whatever the text begins with."""
    renderer = load(tmp_path, template)
    said = Message(role="assistant", content=content, calls=() if content.strip() else CALL.calls)
    shown = show(ASKED, said)
    sample = render_demonstration(shown, renderer)
    prompt = renderer.open((ASKED,), (TOOL,))
    assert prompt == sample.ids[: len(prompt)]
    assert not any(sample.mask[: len(prompt)])
    assert all(sample.mask[len(prompt) :])
    if template in ("qwen2_5", "qwen3_instruct_2507") and content.strip():
        assert f"{content}<|im_end|>" == renderer.decode(sample.ids[len(prompt) :])


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "llama3_1"])
def test_letters_that_the_tokenizer_composes(tmp_path: Path, template: str) -> None:
    """Texts are compared as the model sees them: composed and decomposed letters are the same."""
    renderer = load(tmp_path, template)
    loose = "Cafe\u0301"
    call = ToolCall(id="a", name="look", arguments={"at": [loose, {loose: loose}]})
    shown = show(
        ASKED,
        Message(role="assistant", calls=(call,)),
        FOUND,
        msgspec.structs.replace(SAID, content=loose),
    )
    text = renderer.decode(render_demonstration(shown, renderer).ids)
    assert "Caf\u00e9" in text
    assert loose not in text


THOUGHT = Message(role="assistant", content="seven", thinking="three and four")


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "qwen3_5_nothink", "llama3_1"])
def test_thoughts_with_thinking_off(tmp_path: Path, template: str) -> None:
    """The error says what is off, and what to set."""
    with pytest.raises(
        InputError, match=r"^assistant message 0 has a thought, and model\.thinking"
    ):
        render_demonstration(show(ASKED, THOUGHT), load(tmp_path, template))


@pytest.mark.parametrize("template", ["qwen2_5", "llama3_1"])
def test_thoughts_that_a_template_leaves_out(tmp_path: Path, template: str) -> None:
    """Where thinking is on and nothing writes thoughts, they must go."""
    renderer = load(tmp_path, template, thinking=True)
    with pytest.raises(InputError, match="which this model's chat template leaves out"):
        render_demonstration(show(ASKED, THOUGHT), renderer)


@pytest.mark.parametrize("template", ["qwen3", "qwen3_5_nothink"])
@pytest.mark.parametrize("said", [THOUGHT, SAID, CALL])
def test_thinking_on(tmp_path: Path, template: str, said: Message) -> None:
    """With thinking on a message is learnt with its thought, or with an empty one."""
    renderer = load(tmp_path, template, thinking=True)
    sample = render_demonstration(show(ASKED, said), renderer)
    prompt = renderer.open((ASKED,), (TOOL,))
    assert prompt == sample.ids[: len(prompt)]
    assert f"<think>\n{said.thinking}\n</think>\n\n" in renderer.decode(sample.ids)
