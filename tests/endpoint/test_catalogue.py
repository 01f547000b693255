"""Which version answers whom: leases of requests and of episodes, and room for few."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from served_script import LoadedTrainer
from trustee.endpoint.catalogue import SILENT_SECONDS, Catalogue
from trustee.endpoint.refusals import Refused
from trustee.errors import InputError

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The versions that a shelf writes are files."""
    monkeypatch.chdir(tmp_path)


class Shelf:
    """A catalogue over a folder that grows, with a clock that a test moves."""

    def __init__(self, *names: str, slots: int = 2) -> None:
        self.engine = LoadedTrainer(lambda request: "")
        self.names = [*names]
        self.now = 0.0
        self.catalogue = Catalogue(
            self.engine,
            base="tiny",
            find=lambda: {name: Path("adapters") / name for name in self.names},
            check=self._check,
            slots=slots,
            folder=Path("versions"),
            now=lambda: self.now,
        )

    def _check(self, path: Path) -> None:
        if path.name == "bad":
            raise InputError("bad does not fit")

    @property
    def held(self) -> list[str]:
        """Return the adapters whose versions the engine has."""
        return [self.engine.sources[number].name for number in sorted(self.engine.known)]

    async def ask(self, model: str | None, session: str = "") -> str:
        """Make one request; return the model that answered."""
        async with self.catalogue.lease(model, session=session) as lease:
            assert (lease.adapter is None) == (lease.name == "tiny")
            if lease.adapter:
                assert self.engine.sources[lease.adapter.version].name == lease.name
            return lease.name


async def test_episode_keeps_the_version_that_it_began_with(tmp_path: Path) -> None:
    """The newest adapter may change; an episode under way does not notice."""
    shelf = Shelf("policy-1")
    assert "policy-1" == await shelf.ask("policy", "episode")
    shelf.names.append("policy-2")
    assert "policy-2" == await shelf.ask("policy", "another")
    assert "policy-1" == await shelf.ask("policy", "episode")
    shelf.now += SILENT_SECONDS + 1
    assert "policy-2" == await shelf.ask("policy", "episode")


async def test_episode_survives_the_removal_of_its_adapter() -> None:
    """What a run prunes from disk goes on speaking for those who began with it."""
    shelf = Shelf("policy-1")
    await shelf.ask("policy", "episode")
    shelf.names[:] = ["policy-2"]
    assert "policy-1" == await shelf.ask("policy", "episode")


async def test_what_nobody_uses_makes_room() -> None:
    """The version that was unused for longest goes."""
    shelf = Shelf("a", "b", "c")
    for name in ("a", "b", "a", "c"):
        shelf.now += 1
        await shelf.ask(name)
    assert ["a", "c"] == shelf.held


async def test_weights_that_come_back_get_a_number_of_their_own() -> None:
    """The engine keys its prefix cache by number, so none is used twice."""
    shelf = Shelf("a", "b", slots=1)
    for name in ("a", "b", "a"):
        await shelf.ask(name)
    assert [1, 2, 3] == sorted(shelf.engine.sources)


async def test_request_waits_for_another_one() -> None:
    """A version in use is not taken away; who wants its place waits for the end."""
    shelf = Shelf("a", "b", slots=1)
    done: list[str] = []

    async def ask_b() -> None:
        done.append(await shelf.ask("b"))

    async with anyio.create_task_group() as tasks, shelf.catalogue.lease("a"):
        tasks.start_soon(ask_b)
        await anyio.wait_all_tasks_blocked()
        assert ([], ["a"]) == (done, shelf.held)
    assert (["b"], ["b"]) == (done, shelf.held)


async def test_episodes_that_hold_all_places_are_not_waited_for() -> None:
    """They may be silent for long, so the request is refused at once; later there is room."""
    shelf = Shelf("a", "b", slots=1)
    await shelf.ask("a", "episode")
    with pytest.raises(Refused, match=r"engine\.versions") as caught:
        await shelf.ask("b")
    assert 503 == caught.value.status
    shelf.now += SILENT_SECONDS + 1
    assert "b" == await shelf.ask("b")


async def test_names() -> None:
    """Without a name the newest adapter answers, or the base; what is unknown is named."""
    assert "tiny" == await Shelf().ask(None)
    assert "a" == await Shelf("a").ask(None)
    assert {"tiny": None} == Shelf().catalogue.names()
    for name in ("policy", "b"):
        with pytest.raises(Refused, match="there are: tiny"):
            await Shelf().ask(name)


async def test_adapter_that_does_not_fit() -> None:
    """It is refused before the engine hears of it, and the next request is answered."""
    shelf = Shelf("bad", "good")
    with pytest.raises(InputError, match="does not fit"):
        await shelf.ask("bad")
    assert "good" == await shelf.ask("good")
    assert ["good"] == shelf.held
