"""All checks that need a GPU, in one script; without a GPU, the parts that need none.

    python bench/gpu_check.py --call 1     # is it right: under 600 s
    python bench/gpu_check.py --call 2     # the full-size model, and too little memory: under 600 s
    python bench/gpu_check.py --call 3     # all the rest, if there is time
    python bench/gpu_check.py [--list] [--only a,b] [--skip a,b] [--budget SECONDS] [--out DIR]

If the package is not installed, set PYTHONPATH to the root of this repository.

One JSON line per check is printed as soon as the check is done, and also written to `checks.jsonl`
in DIR, next to a log per family. Checks that share an engine form a family; a family is a process
with a deadline, and whatever happens in one, the next is run. The exit code is 1 if a check failed
and 2 for unknown names.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from gpu.foreign import CHECKS, check_foreign
from gpu.full_size import FIRST, SECOND, check_full, check_reload
from gpu.int4 import check_int4_gemm
from gpu.nf4 import check_gemm
from gpu.programs import check_programs
from gpu.report import MARK, Setting
from gpu.sameness import check_parity, check_products, check_runners, check_stream_race
from gpu.shortage import SHORTAGE, check_shortage
from trustee.planning.cards import count_cards
from trustee.trainer import follow_parent

LAST_LINES = 30
"""Length of the log excerpt in the line of a check that ended without printing one."""
STACKS_SECONDS = 1.5
"""Time for processes that are told to end to write their stacks."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Checks that run in one process, in this order."""

    name: str
    checks: tuple[str, ...]
    seconds: int
    """Deadline of the whole family."""
    run: Callable[[Setting], Awaitable[None]]
    call: int = 1
    """The call of the script that makes it, where machines are lent for minutes."""
    only_card: tuple[str, ...] = ()
    """The checks of which no part can be done without a GPU."""


FAMILIES = (
    Family("products", ("nf4_op", "int4_op"), 55, check_products, call=1),
    Family("parity", ("parity_nf4",), 150, check_parity, call=1),
    Family("foreign", CHECKS, 260, check_foreign, call=1, only_card=CHECKS),
    Family("stream_race", ("stream_race",), 130, check_stream_race, call=1),
    Family("full_8b", FIRST, 420, check_full, call=2),
    Family("shortage", (SHORTAGE,), 170, check_shortage, call=2),
    Family("reload", (SECOND,), 250, check_reload, call=3),
    Family("runners", ("nf4_graph",), 240, check_runners, call=3, only_card=("nf4_graph",)),
    Family("parity_bf16", ("parity_bf16",), 150, check_parity, call=3),
    Family("programs", ("run", "doctor"), 420, check_programs, call=3),
    Family("nf4_gemm", ("nf4_gemm",), 150, check_gemm, call=3),
    Family("int4_gemm", ("int4_gemm",), 150, check_int4_gemm, call=3),
)
"""In the order of what they tell: the first call says whether results are right, the second how the
full-size model fits and what it costs. Each ends within 600 s. The third is what is left."""


def choose(families: Iterable[Family], *, only: str, skip: str) -> dict[str, tuple[str, ...]]:
    """Return the chosen checks by family; the name of a family stands for all of its checks.

    Raises:
        ValueError: if a name is not known.
    """
    families = tuple(families)
    names = {family.name: family.checks for family in families}
    names |= {
        check: (check,) for family in families for check in family.checks if check not in names
    }
    picked = []
    for text in (only, skip):
        given = [name for name in text.split(",") if name]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"no such check: {', '.join(unknown)}; known are {', '.join(names)}")
        picked.append({check for name in given for check in names[name]})
    wanted, left_out = picked
    chosen = {
        family.name: tuple(
            check
            for check in family.checks
            if (not wanted or check in wanted) and check not in left_out
        )
        for family in families
    }
    return {name: checks for name, checks in chosen.items() if checks}


def run_family(
    checks: Sequence[str], *, command: Sequence[str], seconds: float, log: Path
) -> list[Line]:
    """Run a command that makes checks; return a line for each check, whatever happens.

    Args:
        checks: the expected checks.
        command: prints a marked line per check.
        seconds: time limit, after which all its processes are killed.
        log: file for its output.
    """
    started_at = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # A group of its own, so that exactly its processes can be ended.
            process_group=0,
        )
        try:
            end = f"ended with code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            end = f"was killed after {seconds:.0f} s"
            end_group(process.pid, signal.SIGUSR1)
            time.sleep(STACKS_SECONDS)
        finally:
            end_group(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    made = {line["check"]: line for line in read_lines(text)}
    last = [row for row in text.splitlines() if not row.startswith(MARK)][-LAST_LINES:]
    missing: Line = {
        "state": "fail",
        "seconds": round(time.monotonic() - started_at, 1),
        "problems": [f"its process {end} before this check did"],
        "log": last,
    }
    return [made.get(check) or {"check": check, **missing} for check in checks]


def end_group(group: int, number: int) -> None:
    """Send a signal to a process group, if it still exists."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def read_lines(text: str) -> list[Line]:
    """Return the marked lines of a log."""
    found = []
    for row in text.splitlines():
        if row.startswith(MARK):
            # A process that was killed may have written half a line.
            with suppress(json.JSONDecodeError):
                found.append(json.loads(row.removeprefix(MARK)))
    return found


def skipped(check: str, why: str) -> Line:
    """Return the line of a check that was not made."""
    return {"check": check, "state": "skipped", "seconds": 0.0, "why": why}


def child_command(family: str, setting: Setting) -> list[str]:
    """Return the command that runs the chosen checks of a family."""
    return [
        *(sys.executable, str(Path(__file__).resolve()), "--child", family),
        *("--only", ",".join(setting.chosen), "--device", setting.device),
        *("--scratch", str(setting.scratch)),
        *(("--eager",) if setting.eager else ()),
        *(part for change in setting.changes for part in ("--set", change)),
    ]


def make_setting(options: argparse.Namespace, checks: tuple[str, ...]) -> Setting:
    """Return the device on which checks run, by the same rule as the command line."""
    return Setting(
        device=options.device,
        scratch=options.scratch,
        chosen=checks,
        eager=options.eager,
        changes=tuple(options.changes),
    )


def run_all(chosen: dict[str, tuple[str, ...]], options: argparse.Namespace) -> int:
    """Run families one after another and print their lines; return the exit code."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    started_at, failed = time.monotonic(), False
    with (out / "checks.jsonl").open("a", encoding="utf-8") as file:
        for family in FAMILIES:
            checks = chosen.get(family.name, ())
            left = options.budget - (time.monotonic() - started_at)
            setting = make_setting(options, checks)
            lines: list[Line] = []
            if checks and left < options.least:
                lines = [skipped(check, f"{max(0.0, left):.0f} s were left") for check in checks]
            elif checks:
                on_card = options.device == "cuda"
                possible = [c for c in checks if on_card or c not in family.only_card]
                lines = [skipped(c, "needs a GPU") for c in checks if c not in possible]
                lines += run_family(
                    possible,
                    command=child_command(family.name, setting),
                    seconds=min(family.seconds, left),
                    log=out / f"{family.name}.log",
                )
            for line in lines:
                failed = failed or line["state"] == "fail"
                print(json.dumps(line), flush=True)
                file.write(json.dumps(line) + "\n")
                file.flush()
    return int(failed)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="names by family, with deadlines")
    parser.add_argument("--call", type=int, choices=(1, 2, 3), help="only what this call makes")
    parser.add_argument("--only", default="", help="checks or families, with commas between")
    parser.add_argument("--skip", default="", help="likewise")
    parser.add_argument("--out", type=Path, default=Path("gpu-checks"), help="folder for logs")
    parser.add_argument(
        "--scratch", type=Path, help="folder for models; one that is kept is used again"
    )
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds of all; the rest is skipped"
    )
    parser.add_argument(
        "--least", type=float, default=45.0, help="seconds below which no family is begun"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs but where compared")
    parser.add_argument(
        "--set", action="append", default=[], dest="changes", help="of the full-size config"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen checks; exit with code 1 if one failed."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.list:
        for family in FAMILIES:
            checks = ", ".join(family.checks)
            print(f"call {family.call}  {family.name:<12} at most {family.seconds} s: {checks}")
        return 0
    try:
        wanted = [one for one in FAMILIES if options.call in (None, one.call)]
        chosen = choose(wanted, only=options.only, skip=options.skip)
    except ValueError as error:
        parser.error(str(error))
    options.device = options.device or ("cuda" if count_cards() else "cpu")
    if options.child:
        follow_parent()
        family = next(one for one in FAMILIES if one.name == options.child)
        anyio.run(family.run, make_setting(options, chosen[family.name]))
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as fresh:
        options.scratch = (options.scratch or Path(fresh)).resolve()
        options.scratch.mkdir(parents=True, exist_ok=True)
        return run_all(chosen, options)


if __name__ == "__main__":
    raise SystemExit(main())
