"""The worlds that a config may name. A new one is a file here and its name in this union."""

from trustee.environments.anchored import Anchored
from trustee.environments.executable.environment import Executable
from trustee.environments.micro.environment import Microworld
from trustee.environments.protocol import World
from trustee.environments.simulated.environment import Simulated
from trustee.environments.trial.environment import Trial

WorldConfig = Simulated | Executable | Trial | Anchored | Microworld


def judged_part(world: World) -> Simulated | None:
    """Give the simulated world whose judge pays in a world; None where no judge does."""
    match world:
        case Simulated():
            return world
        case Anchored():
            return world.soft
        case Trial():
            return world.inner if isinstance(world.inner, Simulated) else None
        case _:
            return None


def prompt_sets(world: World) -> tuple[str, ...]:
    """Name the prompt sets that a world takes its words from."""
    match world:
        case Anchored():
            return tuple(sorted({world.soft.prompts, world.hard.prompts}))
        case Trial():
            return tuple(sorted({world.prompts, *prompt_sets(world.inner)}))
        case Simulated() | Executable():
            return (world.prompts,)
        case _:
            return ()


def runs_code(world: WorldConfig) -> bool:
    """Say whether a world's tools are code, which needs a sandbox."""
    if isinstance(world, Trial):
        return isinstance(world.inner, Executable)
    return isinstance(world, Executable | Anchored)
