"""The worlds that a config may name: those of the package, and classes outside it.

`env.kind = "package.module:Class"` loads a world from the folder of the config file, from the
working directory or from PYTHONPATH. Loading runs code, so only names that the user gives in the
current call are loaded: in a config, or with `--allow-world`. A stored record only finds worlds
that are already loaded.
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec

from trustee.environments.anchored import Anchored
from trustee.environments.executable.environment import Executable
from trustee.environments.mcp.environment import Mcp
from trustee.environments.micro.environment import Microworld
from trustee.environments.openenv.environment import OpenEnv
from trustee.environments.protocol import World, WorldConfig
from trustee.environments.simulated.environment import Simulated
from trustee.environments.trial.environment import Trial
from trustee.environments.verifiers.environment import PREFIX, Verifiers
from trustee.errors import InputError, UntrustedWorld
from trustee.tools.mcp.address import is_server

PACKAGED = Simulated | Executable | Trial | Anchored | Microworld | Mcp | OpenEnv | Verifiers
OUTSIDE = "package.module:Class"
"""Form of the name of a world outside the package."""

_loaded: dict[str, type[WorldConfig]] = {}
"""Worlds outside the package that this process has loaded, by name."""

_allowed: set[str] = set()
"""Servers that this process may start or reach, by name."""

FindWorld = Callable[[str], type[WorldConfig]]


def known_worlds() -> tuple[type[WorldConfig], ...]:
    """Return the config structs of the package's worlds and of those that were loaded."""
    return (*get_args(PACKAGED), *_loaded.values())


def outside_worlds() -> tuple[str, ...]:
    """Return the worlds outside the package and the servers that this process may use."""
    return (*_loaded, *sorted(_allowed))


def allow_world(name: str, *, folders: Sequence[Path] = ()) -> None:
    """Let a record name a world outside the package, which is loaded, or a server.

    Raises:
        InputError: as `load_world`.
    """
    if is_server(name) or name.startswith(PREFIX):
        _allowed.add(name)
    else:
        load_world(name, folders=folders)


def check_servers(world: World, *, recorded: bool) -> None:
    """Allow the servers of a config, and refuse those of a record that nobody has allowed.

    Raises:
        UntrustedWorld: because a command in a stranger's run folder would be run.
    """
    if not recorded:
        _allowed.update(world.servers())
    for name in world.servers():
        if name not in _allowed:
            raise UntrustedWorld(
                f"its world starts or reaches {name}, and a run folder alone never does; if you "
                f"trust that server, repeat the call with --allow-world {shlex.quote(name)}"
            )


def loader_from(*folders: Path) -> FindWorld:
    """Return the function that loads a world outside the package, from these folders first."""
    return lambda name: load_world(name, folders=folders)


def find_loaded(name: str) -> type[WorldConfig]:
    """Return a world outside the package that this process has already loaded.

    Raises:
        UntrustedWorld: if it has not, because a record alone never loads code.
    """
    if name not in _loaded:
        raise UntrustedWorld(
            f"its world is {name}, code outside this package, and a run folder alone never loads "
            f"code; if you trust that code, repeat the call with --allow-world {name}"
        )
    return _loaded[name]


def world_reader(find: FindWorld) -> Callable[[type, Any], World]:
    """Return the hook with which msgspec reads a field of type `World`."""

    def read(kind: type, value: Any) -> World:
        if kind is not World:
            # What msgspec asks of a hook for a type that it does not know.
            raise NotImplementedError(f"no value of type {kind.__name__} can be read")
        name = value.get("kind") if isinstance(value, dict) else None
        wanted: Any = PACKAGED
        if isinstance(name, str) and ":" in name:
            try:
                wanted = find(name)
            except InputError as error:
                raise ValueError(f"{error} - at `$.kind`") from error
        try:
            world: World = msgspec.convert(value, wanted, dec_hook=read)
        except msgspec.ValidationError as error:
            # msgspec appends the path of this field to that of the inner field.
            raise ValueError(str(error)) from error
        try:
            check_servers(world, recorded=find is find_loaded)
        except UntrustedWorld as error:
            raise ValueError(f"{error} - at `$.kind`") from error
        return world

    return read


def load_world(name: str, *, folders: Sequence[Path] = ()) -> type[WorldConfig]:
    """Import a world outside the package and use its name as its kind.

    Raises:
        InputError: if there is no such module or class, or the class is not a world.
    """
    if name in _loaded:
        return _loaded[name]
    path, _, wanted = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), wanted)):
        raise InputError(f"{name!r} does not name a world outside the package; give {OUTSIDE}")
    module = import_outside(path, folders=folders)
    found = getattr(module, wanted, None)
    worlds = list(worlds_in(module))
    allowed = f"the worlds of {module.__file__} are: {', '.join(worlds) or 'none'}"
    if found is None:
        close = difflib.get_close_matches(wanted, worlds, n=1)
        hint = f"did you mean {path}:{close[0]}? " if close else ""
        raise InputError(f"module {path} has no class {wanted}; {hint}{allowed}")
    if not (isinstance(found, type) and issubclass(found, WorldConfig)):
        raise InputError(
            f"{name} is not a world: derive the class from "
            f"trustee.environments.protocol.WorldConfig, or name another; {allowed}"
        )
    # A subclass carries the name, so that stored records can be read again.
    named: Any = msgspec.defstruct(
        found.__name__,
        (),
        bases=(found,),
        module=found.__module__,
        tag=name,
        tag_field="kind",
        frozen=True,
        kw_only=True,
    )
    _loaded[name] = named
    return _loaded[name]


def import_outside(path: str, *, folders: Sequence[Path]) -> ModuleType:
    """Import a module from the first of the folders that has it, else from Python's path.

    Raises:
        InputError: if it is not there or cannot be imported.
    """
    top = path.partition(".")[0]
    for folder in folders:
        if (folder / top).is_dir() or (folder / f"{top}.py").is_file():
            # The folder stays on the path, because the module may import its neighbours later.
            if str(folder.resolve()) not in sys.path:
                sys.path.insert(0, str(folder.resolve()))
            break
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise InputError(f"module {path} cannot be imported: {error}; install it") from error
        looked = ", ".join(str(folder.resolve()) for folder in folders)
        raise InputError(
            f"there is no module {path} in {looked or 'the working directory'} or on PYTHONPATH; "
            "put its file there, or add its folder to PYTHONPATH"
        ) from error
    except (ImportError, SyntaxError) as error:
        raise InputError(f"module {path} cannot be imported: {error}; correct it") from error


def worlds_in(module: ModuleType) -> Iterator[str]:
    """Yield the names of the worlds that a module defines."""
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, WorldConfig) and value is not WorldConfig:
            yield name
