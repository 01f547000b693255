"""A stand-in for the program in the other interpreter: the same lines, and every way to misbehave.

What an episode does is the `act` of its task. It imports neither package.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

TASKS = 12
COUNT = itertools.count(1)
WAITING: dict[int, SimpleQueue[Any]] = {}
CANCELLED: dict[int, threading.Event] = {}
WRITING = threading.Lock()


def write(**line: Any) -> None:
    """Write a line."""
    with WRITING:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def ask(of: int, act: str, **data: Any) -> Any:
    """Ask and wait for the answer."""
    number = next(COUNT)
    waiting = WAITING[number] = SimpleQueue()
    write(of=of, say="ask", ask=number, act=act, data=data)
    return waiting.get(timeout=60)


class Talk:
    """One branch of an episode, message by message."""

    def __init__(self, of: int, task: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
        self.of = of
        self.nodes = nodes
        self.path: list[int] = []
        self.ids: list[int] = []
        self.messages = [{"role": "user", "content": task["prompt"]}]
        self.refused = False

    def add(self, ids: Sequence[int], message: dict[str, Any], **sampled: Any) -> None:
        """Add a message to the branch."""
        self.path.append(len(self.nodes))
        node = {"ids": ids, "sampled": 0, "suffix": True, "logprobs": [], "message": message}
        self.nodes.append(node | sampled)
        self.ids += ids

    def speak(self, *, prompt: Sequence[int], speaker: str = "a", keeps_tail: bool = True) -> bool:
        """Ask for a message after a prompt, of which the branch has a beginning."""
        said = ask(self.of, "speak", ids=prompt, speaker=speaker, most=200)
        if said is None or "refused" in said:
            self.refused = True
            return False
        self.add(
            [*prompt[len(self.ids) :], *said["ids"]],
            {"role": "assistant", "content": said["message"]["content"]},
            sampled=len(said["ids"]),
            logprobs=said["logprobs"],
        )
        self.messages.append({"role": "assistant", "content": said["message"]["content"]})
        self.last = (list(prompt), said["ids"])
        return True

    def open(self, *, speaker: str = "a") -> bool:
        """Render all messages and ask."""
        return self.speak(
            prompt=ask(self.of, "open", messages=self.messages, tools=[])["ids"], speaker=speaker
        )

    def reply(self, text: str) -> bool:
        """Say something to the policy and ask again."""
        message = {"role": "user", "content": text}
        self.messages.append(message)
        self.add([], message)
        prompt, completion = self.last
        found = ask(
            self.of, "extend", messages=[message], tools=[], prompt=prompt, completion=completion
        )
        return self.speak(prompt=found["ids"])


def trace(nodes: list[dict[str, Any]], *branches: list[int], **changes: Any) -> dict[str, Any]:
    """Return what is told of a trace; its stop is the id of this process."""
    return {
        "agent": "agent",
        "trainable": True,
        "ok": True,
        "rewards": {"right": 0.75, "brief": 0.25},
        "stop": str(os.getpid()),
        "truncated": False,
        "overflown": False,
        "errors": [],
        "nodes": nodes,
        "branches": list(branches),
    } | changes


def played(*traces: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an answer."""
    return {"ok": True, "errors": [], "traces": list(traces)} | changes


def talk(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Two messages, the second after a reply."""
    nodes: list[dict[str, Any]] = []
    said = Talk(of, task, nodes)
    said.open()
    said.reply("go on")
    return played(trace(nodes, said.path))


def branch(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Two branches that share their first message, and a third that begins anew."""
    nodes: list[dict[str, Any]] = []
    first = Talk(of, task, nodes)
    first.open()
    second = Talk(of, task, nodes)
    second.path, second.ids, second.last = [*first.path], [*first.ids], first.last
    first.reply("go on")
    second.reply("or so")
    third = Talk(of, {"prompt": "short"}, nodes)
    third.open()
    return played(trace(nodes, first.path, second.path, third.path))


def lie(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Another id than was sampled, another logprob, or another prompt, as the task says."""
    nodes: list[dict[str, Any]] = []
    said = Talk(of, task, nodes)
    said.open()
    node = nodes[-1]
    match task["about"]:
        case "id":
            node["ids"][-2] += 1
        case "logprob":
            node["logprobs"][0] -= 0.5
        case "prompt":
            node["ids"][0] += 1
        case "count":
            node["sampled"] -= 1
            node["logprobs"] = node["logprobs"][1:]
    return played(trace(nodes, said.path))


def long(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Go on until the policy may say no more, then say that the run failed."""
    nodes: list[dict[str, Any]] = []
    said = Talk(of, task, nodes)
    said.open()
    while said.reply(task["reply"]):
        pass
    ended = trace(nodes, said.path[:-1], ok=False, rewards={}, errors=["ProviderError: 400"])
    return played(ended, ok=False)


def agents(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Two agents, and a user who is not trained."""
    traces = []
    for name, reward in (("solver", 1.0), ("critic", 0.0), ("user", 9.0)):
        nodes: list[dict[str, Any]] = []
        said = Talk(of, task, nodes)
        said.open(speaker=name)
        traces.append(
            trace(
                nodes,
                said.path,
                agent=name,
                trainable=name != "user",
                rewards={"right": reward},
            )
        )
    return played(*traces)


def fail(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Say that a tool of the task failed."""
    Talk(of, task, []).open()
    return played(ok=False, errors=["ToolsetError: the lamp is broken"])


def crash(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """End the process, with words."""
    sys.stderr.write("Traceback: the lamp exploded\n")
    sys.stderr.flush()
    os._exit(3)


def close(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Close the output and stay."""
    os.close(1)
    time.sleep(60)
    return {}


def stall(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Do nothing until it is cancelled."""
    CANCELLED[of].wait(60)
    raise RuntimeError("it was cancelled")


def hang(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Do nothing, whatever is said."""
    time.sleep(60)
    return {}


def flood(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Write a line without end."""
    while True:
        sys.stdout.write("x" * 65536)


def rubbish(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Write lines that are none of the protocol."""
    while True:
        sys.stdout.write("progress: 3%\n")


def form(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Answer in another form."""
    return {"reward": 1}


def strange(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Ask for what there is not."""
    ask(of, "files", path="/etc/passwd")
    return {}


def show(of: int, task: dict[str, Any]) -> dict[str, Any]:
    """Say which variables there are."""
    names = " ".join(sorted(os.environ))
    return played(ok=False, errors=[f"{names} {os.environ.get('GIVEN')}"])


ACTS: tuple[Callable[[int, dict[str, Any]], dict[str, Any]], ...] = (
    *(talk, branch, lie, long, agents, fail, crash, close, stall, hang, flood, rubbish),
    *(form, strange, show),
)


def run(line: dict[str, Any]) -> None:
    """Answer a line."""
    of = line["of"]
    try:
        match line["act"]:
            case "load":
                if line["settings"]["taskset"]["id"] == "missing":
                    raise ModuleNotFoundError("taskset 'missing' not found")
                answer: Any = {"version": "0"}
            case "list":
                answer = [
                    {"key": f"key {n}", "task": {"act": "talk", "prompt": f"task {n}"}}
                    for n in range(min(TASKS, line["most"]))
                ]
            case "play":
                (act,) = (act for act in ACTS if act.__name__ == line["task"]["act"])
                answer = act(of, line["task"])
    except Exception as error:  # noqa: BLE001  # as the program does
        write(of=of, say="error", data=f"{type(error).__name__}: {error}")
    else:
        write(of=of, say="answer", data=answer)


def main() -> None:
    """Read lines to the end of the input."""
    for text in sys.stdin:
        line = json.loads(text)
        if "reply" in line:
            WAITING.pop(line["reply"]).put(line["data"])
        elif line["act"] == "cancel":
            CANCELLED[line["of"]].set()
        else:
            CANCELLED[line["of"]] = threading.Event()
            threading.Thread(target=run, args=[line], daemon=True).start()
    os._exit(0)


if __name__ == "__main__":
    main()
