"""The page of `trustee ui` on a large run: time to the first rows, and memory of server and page.

    python bench/page.py [--episodes 100000] [--turns 5] [--folder DIR] [--json]

Makes a run folder with that many episodes, serves it with `trustee ui`, and opens its table in
headless Chromium, which must be on the PATH; playwright must be installed (extra dev). The first
visit is to a server that has read nothing of the folder.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustee.pages.library import name_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

MEMBERS = 8
TOKENS = 60
"""Sampled tokens of a turn."""
DEADLINE_MS = 300_000
WATCH = """
addEventListener('DOMContentLoaded', () => {
  const look = () => {
    const { dataset } = document.documentElement;
    const has = (selector) => document.querySelector(selector);
    if (has('table.episodes tbody td a')) dataset.rows ||= performance.now();
    const said = has('.state')?.textContent || '';
    if (/^[\\d,]+ (of [\\d,]+ )?episodes$/.test(said)) dataset.whole ||= performance.now();
  };
  const all = { childList: true, subtree: true, characterData: true };
  new MutationObserver(look).observe(document, all);
});
"""
"""Notes in the page when the first rows stand in the table, and when all episodes are known."""


def write_run(folder: Path, *, episodes: int, turns: int) -> Path:
    """Write a run folder of so many episodes with tasks; return it."""
    folder.mkdir(parents=True)
    config = {"model": {"path": "tiny"}, "env": {"kind": "simulated"}, "run": {"steps": 100}}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    call = {"type": "call", "id": "a", "name": "set_lamp", "arguments": {"room": "hall"}}
    turn = {
        "rendered_ids": list(range(100, 100 + TOKENS)),
        "completion": {
            "ids": list(range(200, 200 + TOKENS)),
            "logprobs": [-0.125 - 0.001 * n for n in range(TOKENS)],
            "version": 77777,
        },
        "message": {"role": "assistant", "content": "one moment", "calls": [call]},
        "replies": [{"role": "tool", "content": '{"told": "the lamp is on"}', "call_id": "a"}],
    }
    played = {
        "id": "88888/99999",
        "task_id": "task-88888",
        "turns": [turn] * turns,
        "stop": "done",
        "rewards": {"verdict": 55555},
        "outcome": {"criteria": {"fulfilled": True}},
        "notes": {"evidence": {"fulfilled": "the lamp was on"}},
    }
    template = json.dumps({"group": 88888, "member": 99999, "trajectory": played}) + "\n"
    parts = re.split("(77777|88888|99999|55555)", template)
    with (folder / "episodes.jsonl").open("w") as file:
        for number in range(episodes):
            group, member = divmod(number, MEMBERS)
            values = {
                "77777": str(group // 8),
                "88888": str(group),
                "99999": str(member),
                "55555": "1.0" if member % 3 else "-1.0",
            }
            file.write("".join(values.get(part, part) for part in parts))
    with (folder / "tasks.jsonl").open("w") as file:
        for group in range(-(-episodes // MEMBERS)):
            asked = [{"role": "user", "content": f"please set lamp {group} in the hall to level 7"}]
            task = {"id": f"task-{group}", "messages": asked, "tools": [], "difficulty": group % 90}
            file.write(json.dumps({"group": group, "version": 0, "task": task}) + "\n")
    return folder


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None, "every process of Linux tells it"
    return round(int(found[1]) / 1024, 1)


def visit(page: Page, address: str) -> dict[str, float]:
    """Open the table from an empty page; return seconds to what is seen of it."""
    page.goto("about:blank")
    began = time.monotonic()
    page.goto(address)
    page.wait_for_selector("html[data-rows][data-whole]", timeout=DEADLINE_MS)
    took = time.monotonic() - began
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    noted = "document.documentElement.dataset"
    seen = page.evaluate(f"[{paint}, {noted}.rows, {noted}.whole]")
    names = ("paint_s", "rows_s", "all_known_s")
    found = {name: round(float(ms) / 1000, 3) for name, ms in zip(names, seen, strict=True)}
    return {**found, "outside_s": round(took, 3)}


def use(page: Page, address: str) -> None:
    """Turn pages, sort and filter, as a reader does."""
    for query in ("begin=50", "begin=1000", "sort=reward", "sort=tokens&order=up", "reward=<0"):
        visit(page, f"{address}?{query}")


def measure(folder: Path) -> dict[str, Any]:
    """Serve a run folder, look at it twice and use it; return the figures."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    command = [sys.executable, "-m", "trustee", "ui", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            root = server.stdout.readline().split()[0]
            address = f"{root}#/run/{name_run(folder)}/episodes/episodes"
            memory = [resident_mib(server.pid)]
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.add_init_script(WATCH)
                page.goto("about:blank")
                first = visit(page, address)
                memory.append(resident_mib(server.pid))
                again = visit(page, address)
                heap = [page.evaluate("performance.memory.usedJSHeapSize")]
                for _ in range(3):
                    use(page, address)
                heap.append(page.evaluate("performance.memory.usedJSHeapSize"))
                memory.append(resident_mib(server.pid))
                browser.close()
        finally:
            server.terminate()
    return {
        "first": first,
        "again": again,
        "server_mib": dict(zip(("started", "all_known", "used"), memory, strict=True)),
        "page_mib": [round(size / 2**20, 1) for size in heap],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the run is made, and left")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "large"
        if not folder.exists():
            write_run(folder, episodes=options.episodes, turns=options.turns)
        size = round((folder / "episodes.jsonl").stat().st_size / 2**20, 1)
        line = {"bench": "page", "episodes": options.episodes, "file_mib": size, **measure(folder)}
    if options.json:
        print(json.dumps(line))
        return
    for name, value in line.items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    main()
