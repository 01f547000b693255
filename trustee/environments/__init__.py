"""The worlds that a config may name. A new one is a file here and its name in this union."""

from trustee.environments.anchored import Anchored
from trustee.environments.executable import Executable
from trustee.environments.microworld import Microworld
from trustee.environments.simulated import Simulated
from trustee.environments.trial import Trial

WorldConfig = Simulated | Executable | Trial | Anchored | Microworld


def runs_code(world: WorldConfig) -> bool:
    """Say whether a world's tools are code, which needs a sandbox."""
    if isinstance(world, Trial):
        return isinstance(world.inner, Executable)
    return isinstance(world, Executable | Anchored)
