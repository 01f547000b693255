"""From what a process says of an episode to turns in which exactly the sampled ids are trained.

The process gives each trace as nodes and branches in ids. What was sampled is known here, from the
engine: a branch is believed only where its ids and logprobs are those of a completion, after
exactly the prompt that the engine was given. A completion that several branches share is trained
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trustee.environments.seat import Spoken
from trustee.errors import ServerError
from trustee.tools.chat import read_chat_message
from trustee.types import Message, Record, Turn


class Node(Record, frozen=True):
    """One message of a trace and the ids that it adds."""

    ids: tuple[int, ...]
    sampled: int
    """Number of ids that were sampled; 0 for a message that was given."""
    suffix: bool
    """Whether these are the last ones."""
    logprobs: tuple[float, ...]
    message: dict[str, Any]


class Trace(Record, frozen=True):
    """What one agent of an episode did."""

    agent: str
    trainable: bool
    ok: bool
    rewards: dict[str, float]
    stop: str
    """Why it ended, in the words of `verifiers`."""
    truncated: bool
    overflown: bool
    """Whether its last request was refused for want of room."""
    errors: tuple[str, ...]
    nodes: tuple[Node, ...]
    branches: tuple[tuple[int, ...], ...]
    """Places of the nodes of each branch that is trained on."""


class Answer(Record, frozen=True):
    """What came of an episode."""

    ok: bool
    errors: tuple[str, ...]
    traces: tuple[Trace, ...]


Heard = Mapping[tuple[tuple[int, ...], tuple[int, ...]], Spoken]
"""What the policy said, by prompt and sampled ids."""


def index_spoken(spoken: Iterable[Spoken]) -> Heard:
    """Return completions by what identifies them."""
    return {(one.prompt, one.completion.ids): one for one in spoken}


def lay_out(traces: Iterable[Trace], heard: Heard) -> tuple[Turn, ...]:
    """Return the turns that are trained on, branch by branch.

    Raises:
        ServerError: if a branch has ids that were not sampled so.
    """
    turns: list[Turn] = []
    used: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for trace in traces:
        for path in trace.branches:
            ids: tuple[int, ...] = ()
            continues: tuple[int, ...] | None = None
            nodes = [trace.nodes[place] for place in path]
            for place, node in enumerate(nodes):
                ids += node.ids
                if not node.sampled:
                    continue
                key = (ids[: -node.sampled], ids[-node.sampled :])
                one = find_spoken(node, heard.get(key), agent=trace.agent)
                if key in used:
                    continue
                used.add(key)
                known = len(continues) if continues and key[0][: len(continues)] == continues else 0
                turns.append(
                    Turn(
                        rendered_ids=key[0][known:],
                        completion=one.completion,
                        message=one.message,
                        replies=read_replies(nodes[place + 1 :]),
                        anew=bool(turns) and not known,
                    )
                )
                continues = ids
    return tuple(turns)


def find_spoken(node: Node, found: Spoken | None, *, agent: str) -> Spoken:
    """Check that a node holds what was sampled, id by id and logprob by logprob.

    Raises:
        ServerError: if it does not.
    """
    if found is None or not node.suffix or node.logprobs != found.completion.logprobs:
        raise ServerError(
            f"a branch of {agent} holds {node.sampled} sampled ids that the engine did not sample "
            "after this prompt; only a harness that leaves the ids as they are can be trained"
        )
    return found


def read_replies(nodes: Sequence[Node]) -> tuple[Message, ...]:
    """Return the messages that follow a completion, up to the next one, for readers."""
    replies: list[Message] = []
    for node in nodes:
        if node.sampled:
            break
        replies.append(read_chat_message(node.message, where="a message of a branch"))
    return tuple(replies)
