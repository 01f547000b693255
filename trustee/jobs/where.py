"""`trustee eval --where`: where a run's update sits, and which part of it carries the success."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread

from trustee.config import Config
from trustee.engine.model_config import read_model_config
from trustee.engine.model_files import CONFIG
from trustee.engine.protocol import EngineProgress
from trustee.evaluation.update_picture import draw_update
from trustee.evaluation.update_report import UpdateReport, report_update
from trustee.evaluation.update_size import (
    MatrixUpdate,
    Part,
    measure_update,
    parse_part,
    usual_parts,
    write_part,
)
from trustee.events import Emit
from trustee.jobs.assemble import choose_adapter, prepare_model
from trustee.jobs.comparison import all_tasks, play_policies
from trustee.jobs.evaluate import name_tasks
from trustee.jobs.held_out import check_same_tasks
from trustee.jobs.stage_meter import metered
from trustee.rendering.renderer import Renderer
from trustee.runs.adapters import AdapterFile, read_adapter
from trustee.runs.files import write_json, write_text
from trustee.types import Trajectory

REPORT, PICTURE = "where.json", "where.svg"


async def locate_update(
    config: Config, run: Path, *, adapter: Path | None, keep: Sequence[str], emit: Emit
) -> UpdateReport:
    """Measure an adapter's update, and play held-out tasks with parts of it alone.

    Args:
        config: the run's config, or one changed from it; without `eval.tasks` nothing is played.
        run: the run's folder, which gets `where.json` and `where.svg`.
        adapter: PEFT or run folder; None is the run's own newest adapter.
        keep: parts that are kept, as `parse_part` reads them; empty: the usual ones.
        emit: receives progress events.

    Raises:
        InputError: if the adapter does not fit, or a part is not one of the model's.
    """
    model, renderer = prepare_model(config)
    layers = int(read_model_config(model / CONFIG)["num_hidden_layers"])
    parts = [parse_part(text, layers=layers) for text in keep or usual_parts(layers)]
    found = read_adapter(choose_adapter(config, adapter or run, model, emit=emit))
    updates = await measure_in_thread(model, found, emit=emit)
    played: Mapping[str, Sequence[Trajectory]] = {}
    if config.eval.tasks:
        played = await play_parts(config, run, model, renderer, found, parts, emit=emit)
    report = report_update(
        updates,
        parts,
        adapter=found.folder,
        base=played.get("base", ()),
        whole=played.get("all", ()),
        kept=[played.get(part.name, ()) for part in parts],
    )
    write_json(run / REPORT, report, indent=2)
    write_text(run / PICTURE, draw_update(report))
    return report


async def measure_in_thread(
    model: Path, adapter: AdapterFile, *, emit: Emit
) -> tuple[MatrixUpdate, ...]:
    """Measure an update while its stage is shown."""
    count = len(adapter.shapes) // 2
    with metered(
        "measuring the update", emit, of=count, unit="matrices", engine=EngineProgress
    ) as meter:
        return await anyio.to_thread.run_sync(
            lambda: measure_update(model, adapter, done=meter.count)
        )


async def play_parts(
    config: Config,
    run: Path,
    model: Path,
    renderer: Renderer,
    adapter: AdapterFile,
    parts: Sequence[Part],
    *,
    emit: Emit,
) -> Mapping[str, Sequence[Trajectory]]:
    """Play the held-out tasks with the base, the whole adapter and each part of it alone."""
    with tempfile.TemporaryDirectory() as scratch:
        policies: dict[str, Path | None] = {"base": None, "all": adapter.folder}
        for number, part in enumerate(parts):
            policies[part.name] = Path(scratch) / f"part-{number}"
            write_part(adapter, part, Path(scratch) / f"part-{number}")
        _, played = await play_policies(
            config,
            run,
            model=model,
            renderer=renderer,
            policies=policies,
            find_tasks=all_tasks(config, name_tasks(config, run), emit=emit),
            stored_as="where",
            say=say_part,
            emit=emit,
        )
    for episodes in played.values():
        check_same_tasks(played["base"], episodes)
    return played


def say_part(label: str) -> str:
    """Return what is played, by its label: the base, or what is kept of the update."""
    if label == "base":
        return "the base"
    group, _, layers = label.rpartition(":") if label[-1].isdigit() else (label, "", "")
    kept = [group] if group else []
    if layers:
        kept.append(f"layers {layers}" if "-" in layers else f"layer {layers}")
    return f"{' in '.join(kept)} of the update"
