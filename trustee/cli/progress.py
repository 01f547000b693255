"""The display of a running job: a live panel, plain lines or JSON events."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Literal, TextIO

from rich.live import Live
from rich.table import Table

from trustee.cli.terminal import barred, make_console, say, say_json, visible
from trustee.events import (
    CandidateBuilt,
    EpisodeBegun,
    EpisodePlayed,
    Event,
    HeldOutPlayed,
    Note,
    RolledBack,
    SftStepTrained,
    Stage,
    StageMoved,
    StepTrained,
    TaskCollected,
    TaskWritten,
    encode_event,
)

DisplayMode = Literal["live", "lines", "json"]
RECENT = 40
"""Number of latest steps whose reward and success the panel draws."""
BLOCKS = "▁▂▃▄▅▆▇█"
LINE_SECONDS = 10.0
"""Time between two printed lines about a stage that goes on."""


def show_mismatch(event: StepTrained) -> str:
    """Return the gap between engine and trainer as text; a dash if no sample was fresh."""
    gap = event.mismatch_abs
    return "-" if gap is None else f"{gap:.4f}"


def show_seconds(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def show_moved(event: StageMoved) -> str:
    """Return how far a stage is: done of all, tokens a second, time left."""
    parts = [f"{event.done} of {event.of} {event.unit}"] if event.of else []
    if event.sampled_per_s or event.read_per_s:
        parts.append(f"{event.sampled_per_s:.0f} tokens/s sampled, {event.read_per_s:.0f} read")
    if event.left_s is not None:
        parts.append(f"left {show_seconds(event.left_s)}")
    return ", ".join(parts) or f"under way for {show_seconds(event.seconds)}"


def sparkline(values: Sequence[float]) -> str:
    """Return values as a line of blocks, from the least to the most among them."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    least, most = min(known), max(known)
    steps = (len(BLOCKS) - 1) / (most - least) if most > least else 0.0
    return "".join(BLOCKS[round((value - least) * steps)] for value in known)


class ProgressDisplay:
    """Receives events and shows them; a context manager around a job.

    Args:
        out: where they are shown.
        mode: how.
        recorded: the time of events that were recorded, among which those of single episodes are
            missing; None means that events come as they happen, and all of them.
    """

    def __init__(
        self, out: TextIO, *, mode: DisplayMode, recorded: Callable[[], float] | None = None
    ) -> None:
        self._recorded = recorded
        self._out = out
        self._mode = mode
        self._console = make_console(out)
        self._live: Live | None = None
        self._started_at = self._now()
        self._before = 0.0
        """Share of the budget already spent when the stage began; above 0 in a resumed run."""
        self._stage = ""
        self._moved: StageMoved | None = None
        """How far the stage is; None until it is known."""
        self._printed_at = 0.0
        """When a line about a stage was printed last."""
        self._lock = threading.RLock()
        """Events about a stage come from a thread of their own."""
        self._running = 0
        self._done = 0
        self._failed: Counter[str] = Counter()
        self._failures = 0
        self._played = 0
        """Episodes since the last step that no other part spoiled."""
        self._solved = 0
        self._success: deque[float] = deque(maxlen=RECENT)
        self._held_out: deque[HeldOutPlayed] = deque(maxlen=RECENT)
        self._recent: deque[StepTrained] = deque(maxlen=RECENT)
        self._rates: dict[str, float] = {}
        self._policy_tokens = 0
        self._last_step: tuple[float, int, dict[str, int]] = (self._started_at, 0, {})

    def __enter__(self) -> ProgressDisplay:
        """Start the panel."""
        if self._mode == "live":
            # The screen is for events alone. Rich would also show what libraries write to the
            # standard streams, which `capture` sends to a file.
            self._live = Live(
                console=self._console,
                refresh_per_second=4,
                get_renderable=self.panel,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the panel; its last state stays visible."""
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def emit(self, event: Event) -> None:
        """Handle an event; may be called from any thread."""
        with self._lock:
            self._count(event)
            self._show(event)

    def _now(self) -> float:
        return time.monotonic() if self._recorded is None else self._recorded()

    def _show(self, event: Event) -> None:
        if isinstance(event, StageMoved) and self._mode != "json":
            now = self._now()
            if self._mode == "live" or now - max(self._printed_at, self._started_at) < LINE_SECONDS:
                return
            self._printed_at = now
        if self._mode == "json":
            say_json(encode_event(event), to=self._out)
        elif self._mode == "lines" and (line := self.line(event)):
            say(barred(line), to=self._out)
        elif (
            self._live is not None
            and not isinstance(event, StepTrained)
            and (line := self.line(event))
        ):
            self._console.print(barred(line))

    def _count(self, event: Event) -> None:
        match event:
            case EpisodeBegun():
                self._running += 1
            case EpisodePlayed():
                self._running -= 1
                self._done += 1
                self._policy_tokens += event.tokens
                self._played += not event.failed
                self._solved += event.failed_by is None
                self._count_failure(event)
            case TaskWritten():
                self._count_failure(event)
            case StageMoved():
                self._moved = event
            case HeldOutPlayed():
                self._held_out.append(event)
            case StepTrained():
                self._recent.append(event)
                if self._played:
                    self._success.append(self._solved / self._played)
                self._played = self._solved = 0
                self._measure_rates(event)
            case Stage():
                self._stage = event.name
                self._moved = None
                self._started_at = self._now()
                self._before = event.progress or 0.0

    def _count_failure(self, event: EpisodePlayed | TaskWritten) -> None:
        if event.failed_by:
            self._failed[str(event.failed_by)] += 1
        self._failures += event.failed

    def _measure_rates(self, event: StepTrained) -> None:
        then, policy, roles = self._last_step
        now = self._now()
        passed = max(1e-6, now - then)
        self._rates = {"policy": (self._policy_tokens - policy) / passed} | {
            role: (count - roles.get(role, 0)) / passed for role, count in event.tokens.items()
        }
        if self._recorded is not None:
            del self._rates["policy"]
        self._last_step = (now, self._policy_tokens, dict(event.tokens))

    def line(self, event: Event) -> str | None:
        """Return an event as one line, or None if it is not shown."""
        match event:
            case Stage():
                return event.name
            case Note():
                return event.text
            case StageMoved():
                return f"{self._stage}: {show_moved(event)}"
            case CandidateBuilt():
                tenth = event.accepted * 10 // event.wanted
                if tenth == (event.accepted - 1) * 10 // event.wanted:
                    return None
                return (
                    f"built {event.accepted:>4} of {event.wanted} from "
                    f"{event.candidates} candidates"
                )
            case RolledBack():
                to = f"version {event.to}" if event.to else "the base"
                return f"rolled back to {to}: {event.why}"
            case SftStepTrained():
                held_out = event.held_out_loss
                measured = "" if held_out is None else f"  held-out loss {held_out:.4f}"
                return (
                    f"step {event.step:>4} of {event.of}  loss {event.loss:.4f}"
                    f"{measured}  left {self.left(event.progress)}"
                )
            case TaskCollected():
                return f"task {event.tasks} of {event.of}  kept {event.kept} episodes"
            case StepTrained():
                counted = f"episodes {self._done}  failed {self._failures}  "
                return (
                    f"step {event.step:>4}  reward {event.reward:+.2f}  "
                    f"difficulty {event.difficulty or 0:>3g}  "
                    f"mixed {1 - event.frac_reward_zero_std:.0%}  "
                    f"clipped {event.clip_ratio:.3f}  mismatch {show_mismatch(event)}  "
                    f"lag {event.lag_mean:.1f}  {'' if self._recorded else counted}"
                    f"left {self.left(event.progress)}"
                )
            case _:
                return None

    def left(self, progress: float) -> str:
        """Return the estimated time to the end of training, from the current stage alone."""
        progress = min(1.0, progress)
        if progress <= self._before:
            return "unknown"
        seconds = (self._now() - self._started_at) * (1 - progress) / (progress - self._before)
        return show_seconds(seconds)

    def panel(self) -> Table:
        """Return the panel."""
        table = Table.grid(padding=(0, 2))
        last = self._recent[-1] if self._recent else None
        failed = ", ".join(f"{k} {v}" for k, v in sorted(self._failed.items())) or "none"
        table.add_row("now", visible(self._stage))
        if self._moved is not None:
            table.add_row("so far", show_moved(self._moved))
        if self._recorded is None:
            table.add_row(
                "episodes", f"{self._done} done, {self._running} running, failed by: {failed}"
            )
        if self._held_out:
            shares = sparkline([event.success for event in self._held_out])
            latest = self._held_out[-1]
            told = f"{latest.success:.1%} ({latest.low:.1%} to {latest.high:.1%})"
            table.add_row("held-out tasks", f"{shares}  {told}, after step {latest.step}")
        if last is not None:
            rewards = sparkline([event.reward for event in self._recent])
            rates = "  ".join(f"{role} {rate:.0f}" for role, rate in self._rates.items())
            table.add_row("step", f"{last.step} (version {last.version})")
            table.add_row("reward", f"{rewards}  {last.reward:+.2f}")
            if self._success:
                table.add_row("success", f"{sparkline(self._success)}  {self._success[-1]:.0%}")
            table.add_row("difficulty", "-" if last.difficulty is None else f"{last.difficulty:g}")
            table.add_row("tokens/s", rates)
            table.add_row("lag", f"{last.lag_mean:.1f}, at most {last.lag_max}")
            table.add_row("mismatch", f"{show_mismatch(last)} nats per token")
            if last.anchor_correlation is not None:
                followed = f"{last.anchor_correlation:.2f} over {last.anchor_episodes}"
                table.add_row("judge follows proof", followed)
            table.add_row("time left", self.left(last.progress))
        return table
