"""What a tool sees: its arguments, a fixed clock, seeded randomness, and its own source."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustee.errors import InputError
from trustee.sandbox.calls import SandboxConfig, Worker
from trustee.sandbox.host import ProcessSandbox

pytestmark = pytest.mark.anyio

SOURCES = {
    "now": "import datetime, time\ndef now():\n"
    "    a = time.time()\n    time.sleep(90)\n    b = time.monotonic()\n"
    "    return [str(datetime.datetime.fromtimestamp(a)), str(datetime.datetime.now()), b,\n"
    "        str(datetime.date.today()), time.strftime('%Y-%m-%d %H:%M:%S'), time.ctime()]",
    "chance": "import os, random, secrets, uuid\ndef chance():\n"
    "    return [random.random(), os.urandom(2).hex(), secrets.token_hex(2), str(uuid.uuid4())]",
    "unseeded": "import os, posix, random, uuid\ndef unseeded():\n"
    "    shared = random.random()\n    random.seed()\n"
    "    return [random.Random().random(), shared, random.random(), os.getrandom(2).hex(),\n"
    "        posix.getrandom(2).hex(), str(uuid.uuid1()), list(os.times()),\n"
    "        list(os.uname())[1:4], os.cpu_count()]",
    "process": "import os\ndef process():\n    return [os.getpid(), os.getppid()]",
    "echo": "def echo(it):\n    return it",
    "text": "def text(it):\n    return str(it)",
    "order": "def order():\n    return list({'alpha', 'beta', 'gamma', 'delta', 'epsilon'})",
    "top": "import math\nLIMIT = 3\ndef half(x):\n    return x / 2\n"
    "def top(x):\n    return [math.floor(half(x)), LIMIT]",
    "visible": "import json, sys\ndef visible():\n    return json.dumps(LIMIT)\nLIMIT = 1",
    "kinds": "from collections import OrderedDict\ndef kinds():\n    return OrderedDict(a=1)",
    "published_kinds": "def published_kinds():\n    from collections import OrderedDict\n"
    "    return OrderedDict(a=1)",
    "zone": "import datetime, zoneinfo\ndef zone():\n"
    "    at = datetime.datetime(2025, 7, 1, tzinfo=zoneinfo.ZoneInfo('UTC'))\n"
    "    return [isinstance(at, datetime.datetime), at.isoformat()]",
    "one": "def one():\n    return 1\ndef two():\n    return 'taken'",
    "two": "def two():\n    return 2",
    "ends": "import os\nos._exit(3)\ndef ends():\n    return 1",
    "state": "seen = []\ndef state():\n    seen.append(1)\n    return len(seen)",
}


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    """Open a sandbox without a lock: these tests run everywhere."""
    async with ProcessSandbox(SandboxConfig(isolation="none", seconds=60)) as opened:
        yield opened


@pytest.fixture(scope="module")
async def worker(sandbox: ProcessSandbox) -> AsyncIterator[Worker]:
    """Lend all tools."""
    async with sandbox.open(SOURCES, seed=86400) as lent:
        yield lent


async def test_clock_is_the_seeds_and_sleep_does_not_wait(worker: Worker) -> None:
    """The clock begins at a second that the seed names and goes on when it is looked at."""
    outcome = await worker.call("now", {})
    assert (
        '["2025-01-02 00:00:00.001000", "2025-01-02 00:01:30.003000", 90.002, '
        '"2025-01-02", "2025-01-02 00:01:30", "Thu Jan  2 00:01:30 2025"]'
    ) == outcome.text


async def test_randomness_is_the_seeds(sandbox: ProcessSandbox, worker: Worker) -> None:
    """The same seed gives the same numbers in every call and worker, another seed others."""
    texts = [(await worker.call("chance", {})).text for _ in range(2)]
    only = {"chance": SOURCES["chance"]}
    async with sandbox.open(only, seed=86400) as same, sandbox.open(only, seed=5) as other:
        texts += [(await lent.call("chance", {})).text for lent in (same, other)]
    assert texts[0] == texts[1] == texts[2] != texts[3]


async def test_what_takes_its_seed_from_the_machine_is_the_seeds(
    sandbox: ProcessSandbox, worker: Worker
) -> None:
    """Generators without a seed, times and the machine's name repeat in every call and worker."""
    texts = [(await worker.call("unseeded", {})).text for _ in range(2)]
    only = {"unseeded": SOURCES["unseeded"]}
    async with sandbox.open(only, seed=86400) as same, sandbox.open(only, seed=5) as other:
        texts += [(await lent.call("unseeded", {})).text for lent in (same, other)]
    assert texts[0] == texts[1] == texts[2] != texts[3]
    assert '"sandbox"' in texts[0]


async def test_process_ids_do_not_count_calls() -> None:
    """Where ids are of no use, every call has the same."""
    try:
        async with (
            ProcessSandbox(SandboxConfig(seconds=60)) as locked,
            locked.open({"process": SOURCES["process"]}, seed=1) as lent,
        ):
            assert ["[2, 1]"] * 2 == [(await lent.call("process", {})).text for _ in range(2)]
    except InputError as error:
        pytest.skip(str(error))


async def test_order_of_sets_is_the_same_in_every_worker(
    sandbox: ProcessSandbox, worker: Worker
) -> None:
    """Hashes of texts are fixed."""
    async with sandbox.open({"order": SOURCES["order"]}, seed=1) as other:
        assert await worker.call("order", {}) == await other.call("order", {})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text()
    | st.text(st.characters(codec="utf-8"))
    | st.text(st.characters(min_codepoint=0, max_codepoint=127))
)
async def test_text_comes_back_as_it_was(worker: Worker, text: str) -> None:
    """Every text that UTF-8 can write goes in and out unchanged."""
    outcome = await worker.call("echo", {"it": text})
    assert (text, True, "") == (outcome.text, outcome.ok, outcome.breach)


async def test_results_are_json_or_text(worker: Worker) -> None:
    """Lists and objects come out as JSON with every letter as it is, all else as Python's text."""
    given = [{"ä": [1, None, True]}, [], 1.5, None, True, "x"]
    assert ['{"ä": [1, null, true]}', "[]", "1.5", "None", "True", "x"] == [
        (await worker.call("echo", {"it": it})).text for it in given
    ]


async def test_other_names_of_a_source_are_seen(worker: Worker) -> None:
    """Imports, constants and functions at the top of a source work inside its function."""
    assert "[2, 3]" == (await worker.call("top", {"x": 5})).text
    assert '{"a": 1}' == (await worker.call("kinds", {})).text


async def test_published_quirk_hides_other_names(sandbox: ProcessSandbox) -> None:
    """As FTRL's first runner has it, only what that runner imported itself is seen."""
    async with sandbox.open(SOURCES, seed=0, published=True) as lent:
        texts = [
            (await lent.call(name, given)).text
            for name, given in {"top": {"x": 5}, "visible": {}, "published_kinds": {}}.items()
        ]
    assert [
        "an error occurred when calling top: NameError: name 'math' is not defined",
        "an error occurred when calling visible: NameError: name 'LIMIT' is not defined",
        "OrderedDict([('a', 1)])",
    ] == texts


async def test_sources_do_not_see_each_other(worker: Worker) -> None:
    """A source that defines another tool's name does not take its place."""
    assert ["1", "2"] == [(await worker.call(name, {})).text for name in ("one", "two")]


async def test_top_of_a_source_runs_in_the_call(worker: Worker) -> None:
    """Code beside the function is as locked in and as short-lived as the function."""
    assert "died" == (await worker.call("ends", {})).breach
    assert "1" == (await worker.call("one", {})).text


async def test_no_call_sees_the_one_before(worker: Worker) -> None:
    """A list that a call fills is empty for the next."""
    assert ["1", "1"] == [(await worker.call("state", {})).text for _ in range(2)]


async def test_dates_are_of_one_class(worker: Worker) -> None:
    """With the clock replaced, dates still are what `datetime` calls a date."""
    assert '[true, "2025-07-01T00:00:00+00:00"]' == (await worker.call("zone", {})).text
