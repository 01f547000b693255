"""The facts of a model card, gathered from a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from trustee import __version__
from trustee.config import Config
from trustee.decoding import decode_json, read_file
from trustee.engine.model_files import name_base
from trustee.environments.protocol import World
from trustee.errors import InputError
from trustee.evaluation.evaluate import Gain, SuccessRate
from trustee.evaluation.retention_report import RetentionReport
from trustee.export.answers import Agreement
from trustee.export.card import CardFacts, Measured, read_licence
from trustee.jobs.held_out import OUTCOME, evaluation_world, show_share
from trustee.jobs.retention import REPORT
from trustee.runs.adapters import find_adapter
from trustee.types import Record

WORLDS = {
    "simulated": "tools, user and judge that the base itself plays (TRUSTEE, arXiv 2604.17739)",
    "executable": "tools that are really run, with a reward that code verifies (FTRL, arXiv "
    "2508.08791)",
    "trial": "unfamiliar tools that are tried before they are used (ToolMaster, arXiv 2601.12762)",
    "anchored": "simulated tools beside ones that are really run",
    "microworld": "a small house whose tools really run",
}
"""What a world is, by its kind."""


class Outcome(msgspec.Struct, frozen=True):
    """What `outcome.json` says of the training."""

    steps: int
    before: SuccessRate | None = None
    after: SuccessRate | None = None
    gain: Gain | None = None


class ExportedFile(Record, frozen=True):
    """A file of the card, and how it was tested."""

    kind: str
    """As `export` calls it, such as merged, gguf q8_0, gguf adapter, ollama bf16 or adapter."""
    name: str
    agreement: Agreement | None = None


def gather_facts(
    config: Config, run: Path, *, base: Path, adapter: Path, files: Sequence[ExportedFile]
) -> CardFacts:
    """Return what a card says of a run.

    Args:
        config: the run's config.
        run: the run's folder.
        base: folder of the base model.
        adapter: the adapter that is exported; figures of another one are left out.
        files: what the card is written for.
    """
    outcome = read_outcome(run) if is_newest(adapter, run) else None
    named = name_base(config.model.path, base)
    only = all(file.kind == "adapter" for file in files)
    return CardFacts(
        title=f"{Path(named).name} trained to call tools",
        base=Path(named).name if Path(named).is_absolute() else named,
        licence=read_licence(base),
        world=describe_world(config),
        settings=describe_settings(config, outcome),
        measured=describe_measures(config, outcome),
        notes=describe_retention(run, adapter),
        files=tuple((file.name, show_test(file.agreement)) for file in files),
        uses=tuple(use for file in files for use in find_uses(file.kind)),
        is_adapter=only,
    )


def find_uses(kind: str) -> tuple[tuple[str, str], ...]:
    """Return how a kind of file is used; a format of numbers after it does not matter."""
    return USES.get(kind) or USES.get(kind.partition(" ")[0], ())


def is_newest(adapter: Path, run: Path) -> bool:
    """Whether an adapter is the result of a run."""
    try:
        return adapter.resolve() == find_adapter(run).resolve()
    except InputError:
        return False


def read_outcome(run: Path) -> Outcome | None:
    """Return a run's outcome; None if it has not ended."""
    try:
        return decode_json(read_file(run / OUTCOME, error=InputError), Outcome, error=InputError)
    except InputError:
        return None


def describe_world(config: Config) -> str:
    """Return one sentence on the world of the training."""
    kind = name_kind(config.env)
    return WORLDS.get(kind, f"a world of its own, {kind}")


def name_kind(world: World) -> str:
    """Return what a config calls a kind of world."""
    return str(msgspec.to_builtins(world)["kind"])


def describe_settings(config: Config, outcome: Outcome | None) -> tuple[tuple[str, str], ...]:
    """Return what decided the training, by the keys of the config."""
    learn, rollout = config.learn, config.rollout
    episodes = f"{rollout.groups_per_step} groups of {rollout.group_size}"
    found = [
        ("program", f"trustee {__version__}"),
        ("optimiser steps", str(outcome.steps) if outcome else "unknown"),
        ("episodes of a step", episodes),
        ("learn.estimator", learn.estimator),
        ("learn.loss.kind", learn.loss.kind),
        ("learn.learning_rate", f"{learn.learning_rate:g}"),
        ("learn.rank", str(learn.rank)),
        ("run.seed", str(config.run.seed)),
        ("base weights", config.engine.weights),
        ("model.template", Path(config.model.template or "the model's own").name),
        ("model.thinking", "yes" if config.model.thinking else "no"),
    ]
    return tuple(found)


def describe_measures(config: Config, outcome: Outcome | None) -> tuple[Measured, ...]:
    """Return held-out success before and after, with intervals."""
    if outcome is None or outcome.before is None or outcome.after is None:
        return ()
    kind = name_kind(evaluation_world(config))
    rows = [
        Measured(
            what=f"success in {kind}, held out",
            before=show_share(outcome.before),
            after=show_share(outcome.after),
        )
    ]
    if outcome.gain is not None:
        gain = outcome.gain
        shown = f"{gain.points:+.1f} points (95 % interval {gain.low:+.1f} to {gain.high:+.1f})"
        rows.append(Measured(what="gain on the same tasks", before="", after=shown))
    return tuple(rows)


def describe_retention(run: Path, adapter: Path) -> tuple[str, ...]:
    """Return what was forgotten, if that was measured for this adapter."""
    try:
        report = decode_json(
            read_file(run / REPORT, error=InputError), RetentionReport, error=InputError
        )
    except InputError:
        return ()
    if Path(report.adapter).resolve() != adapter.resolve():
        return ()
    kl, differing = report.total.kl, report.total.differing
    spread = f" ({kl.low:.3f} to {kl.high:.3f})" if kl.low is not None and kl.high else ""
    return (
        f"On {report.total.prompts} general prompts the model is a KL of {kl.value:.3f}{spread} "
        f"nats a token away from its base and answers {differing.value:.0%} otherwise.",
    )


def show_test(found: Agreement | None) -> str:
    """Return how a file was tested."""
    if found is None:
        return "not tested"
    return (
        f"read back: prompts as in training, {found.equal + found.ties} of {found.tokens} greedy "
        "tokens equal or tied"
    )


USES = {
    "merged": (
        (
            "With transformers",
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")\n'
            'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")\n'
            "ids = tokenizer.apply_chat_template(messages, tools=tools, "
            'add_generation_prompt=True, return_tensors="pt")',
        ),
        ("With vLLM", "vllm serve THIS_FOLDER --enable-auto-tool-choice --tool-call-parser hermes"),
    ),
    "ollama": (("With Ollama", "ollama create trained -f Modelfile\nollama run trained"),),
    "gguf": (("With llama.cpp", "llama-server -m FILE.gguf --jinja"),),
    "gguf adapter": (("With llama.cpp", "llama-server -m BASE.gguf --lora ADAPTER.gguf --jinja"),),
    "adapter": (
        (
            "With PEFT",
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            'base = AutoModelForCausalLM.from_pretrained("THE BASE")\n'
            'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
        ),
    ),
}
"""How each kind of file is used."""
