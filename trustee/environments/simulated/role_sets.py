"""The three ways to play the roles, one for each kind of prompt set.

| prompt set | the roles | for |
|---|---|---|
| `simulated`, and any other | in small steps, with code between (`in_steps.py`) | from 1B on |
| `tiny` | in whole answers that the model was taught (`at_once.py`) | the built-in model |
| `published` | with what the authors' code tells them (`published.py`) | large models that think |
"""

from __future__ import annotations

from trustee.environments.simulated.at_once import AtOnce
from trustee.environments.simulated.in_steps import InSteps
from trustee.environments.simulated.published import Published
from trustee.environments.simulated.role_set import FactsJudge, LoneJudge, RoleSet
from trustee.environments.simulated.rules import Rules
from trustee.errors import InputError


def role_set_of(rules: Rules) -> RoleSet:
    """Return how the roles are played with a prompt set."""
    match rules.prompts:
        case "tiny":
            return AtOnce(rules.prompts)
        case "published":
            return Published(rules.prompts, thoughts=rules.thoughts, withheld=rules.withheld)
        case _:
            return InSteps(rules.prompts)


def facts_judge_of(rules: Rules) -> FactsJudge:
    """Return the judge who is asked what facts leave open.

    Raises:
        InputError: if the prompt set has none.
    """
    roles = role_set_of(rules)
    if not isinstance(roles, FactsJudge):
        raise InputError(
            f"the judge of the prompt set {rules.prompts!r} is shown no facts, and its tasks "
            "expect tools without arguments: set env.verdict = 'published', or another env.prompts"
        )
    return roles


def lone_judge_of(rules: Rules) -> LoneJudge:
    """Return the judge who decides alone.

    Raises:
        InputError: if the prompt set has none.
    """
    roles = role_set_of(rules)
    if not isinstance(roles, LoneJudge):
        raise InputError(
            f"the judge of the prompt set {rules.prompts!r} compares what code has put together, "
            "so it cannot decide alone: env.verdict = 'published' needs env.prompts = 'published', "
            "or 'tiny' for the built-in model"
        )
    return roles


def check_rules(rules: Rules) -> None:
    """Refuse rules of which one has no effect, or that no judge can follow.

    Raises:
        InputError: naming the keys.
    """
    if rules.verdict == "facts":
        facts_judge_of(rules)
    else:
        lone_judge_of(rules)
    shows_all = isinstance(role_set_of(rules), Published)
    if rules.thoughts and not shows_all:
        raise InputError(
            f"the prompt set {rules.prompts!r} shows no role the policy's thoughts, so "
            "env.thoughts = true would do nothing; set env.prompts = 'published' or leave it out"
        )
    if rules.withheld and not shows_all:
        raise InputError(
            f"code needs what env.withheld = {list(rules.withheld)} would keep from the roles of "
            f"the prompt set {rules.prompts!r}; set env.prompts = 'published' or leave it out"
        )
