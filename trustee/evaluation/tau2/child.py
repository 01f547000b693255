"""The benchmark's package, in a process of its own, which answers lines of JSON.

It runs under the Python that has the benchmark's dependencies, so it imports nothing of this
program. Several lines are worked on at once; an answer has the number of its question.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import Any

STOP = "###STOP###"
"""What a user says at the end, and an agent that has no user."""
MOST_STEPS = 200
"""Messages of one episode; the benchmark's own limit."""
GREETING = "Hi! How can I help you today?"
"""What every agent begins with."""
POLICY_ERRORS = ("BadRequestError", "ContextWindowExceededError", "ValueError")
"""What is raised where the policy's own message cannot be gone on with."""


@cache
def read_tasks(domain: str) -> dict[str, Any]:
    """Return the tasks of a domain's `base` split, by id."""
    registry = import_module("tau2.registry").registry
    return {task.id: task for task in registry.get_tasks_loader(domain)("base")}


def list_tasks(domain: str, solo: bool) -> list[str]:
    """Return the ids of the tasks; without a user, of those that have a ticket."""
    tasks = read_tasks(domain)
    agent = import_module("tau2.agent.llm_agent").LLMSoloAgent
    return [
        id
        for id, task in tasks.items()
        if not solo or (task.ticket and agent.check_valid_task(task))
    ]


def is_solved_by(domain: str, id: str, solo: bool, who: str) -> bool:
    """Return whether the `oracle`, which makes the right calls, or the idle `floor` succeeds."""
    task = read_tasks(domain)[id]
    messages = import_module("tau2.data_model.message")
    told = [] if solo else [messages.AssistantMessage(role="assistant", content=GREETING)]
    if who == "oracle":
        told += replay_gold(domain, task, solo=solo)
    if solo:
        told.append(messages.AssistantMessage(role="assistant", content=STOP))
    else:
        told.append(messages.UserMessage(role="user", content=STOP))
    simulation = import_module("tau2.data_model.simulation")
    ended = simulation.TerminationReason
    run = simulation.SimulationRun(
        id=f"{who}-{id}",
        task_id=id,
        start_time="",
        end_time="",
        duration=0.0,
        termination_reason=ended.AGENT_STOP if solo else ended.USER_STOP,
        messages=told,
    )
    found = import_module("tau2.evaluator.evaluator").evaluate_simulation(
        run, task, choose_evaluation(task), solo_mode=solo, domain=domain
    )
    return is_full(found.reward)


def replay_gold(domain: str, task: Any, *, solo: bool) -> list[Any]:
    """Return the messages of an agent that makes the right calls and says what must be said."""
    messages = import_module("tau2.data_model.message")
    registry = import_module("tau2.registry").registry
    world = registry.get_env_constructor(domain)(solo_mode=solo)
    state = task.initial_state
    world.set_state(
        initialization_data=state.initialization_data if state else None,
        initialization_actions=state.initialization_actions if state else None,
        message_history=[],
    )
    told: list[Any] = []
    for number, action in enumerate(task.evaluation_criteria.actions or []):
        who = "assistant" if solo else action.requestor
        call = messages.ToolCall(
            id=str(number), name=action.name, arguments=action.arguments, requestor=who
        )
        kind = messages.UserMessage if who == "user" else messages.AssistantMessage
        told += [kind(role=who, tool_calls=[call]), world.get_response(call)]
    said = " ".join(task.evaluation_criteria.communicate_info or [])
    if said:
        told.append(messages.AssistantMessage(role="assistant", content=said))
    return told


def choose_evaluation(task: Any) -> Any:
    """Return what is checked: all that needs no judge.

    Where a task's basis holds statements that a model would have to judge, the state of the world
    alone is compared.
    """
    kinds = import_module("tau2.evaluator.evaluator").EvaluationType
    judged = import_module("tau2.data_model.tasks").RewardType.NL_ASSERTION
    criteria = task.evaluation_criteria
    return kinds.ENV if criteria and judged in criteria.reward_basis else kinds.ALL


def is_full(reward: float) -> bool:
    """Whether a reward is the whole one."""
    return reward > 1 - 1e-6


def play(
    domain: str, id: str, solo: bool, agent: Mapping[str, Any], user: Mapping[str, Any]
) -> dict[str, Any]:
    """Play one task by asking endpoints; return whether it was solved, and why it ended.

    Args:
        domain: the domain.
        id: the task.
        solo: whether there is no user.
        agent: `model`, and `args` for the client of the endpoint.
        user: the same of who plays the user.
    """
    task = read_tasks(domain)[id]
    config = import_module("tau2.data_model.simulation").TextRunConfig(
        domain=domain,
        agent="llm_agent_solo" if solo else "llm_agent",
        llm_agent=agent["model"],
        llm_args_agent=dict(agent["args"]),
        user="dummy_user" if solo else "user_simulator",
        llm_user=user["model"],
        llm_args_user=dict(user["args"]),
        max_steps=MOST_STEPS,
    )
    run = import_module("tau2.runner.batch").run_single_task
    try:
        found = run(config, task, seed=0, evaluation_type=choose_evaluation(task))
    except Exception as error:  # noqa: BLE001 - any error of a client ends this episode alone
        name = type(error).__name__
        if name in POLICY_ERRORS:
            return {"solved": False, "why": f"{name}: {error}"[:400]}
        return {"failed": f"{name}: {error}"[:400]}
    reward = found.reward_info.reward if found.reward_info else 0.0
    return {"solved": is_full(reward), "why": str(found.termination_reason.value)}


ACTS = {"list_tasks": list_tasks, "is_solved_by": is_solved_by, "play": play}


def main(arguments: Sequence[str]) -> None:
    """Answer lines of standard input, up to `parallel` at once; arguments: checkout, parallel."""
    checkout, parallel = arguments
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    # The benchmark and its client print.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.path.insert(0, os.path.join(checkout, "src"))
    lock = threading.Lock()

    def say(value: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(value).encode() + b"\n")

    try:
        for name in ("tau2.registry", "tau2.runner.batch", "tau2.evaluator.evaluator"):
            import_module(name)
    except ImportError as error:
        say({"missing": error.name or str(error)})
        return
    say({})

    def answer(line: bytes) -> None:
        question = json.loads(line)
        number = question.pop("number")
        act: Any = ACTS[question.pop("act")]
        try:
            say({"number": number, "answer": act(**question)})
        except Exception as error:  # noqa: BLE001 - the parent raises it
            say({"number": number, "error": f"{type(error).__name__}: {error}"[:400]})

    with ThreadPoolExecutor(int(parallel)) as pool:
        for line in sys.stdin.buffer:
            pool.submit(answer, line)


if __name__ == "__main__":
    main(sys.argv[1:])
