"""The worlds of the package, and what one of your own is made of."""

from trustee.environments.protocol import (
    CountedSource,
    Opening,
    PlainEpisode,
    Reply,
    Services,
    TaskSpec,
    WorldConfig,
)

__all__ = [
    "CountedSource",
    "Opening",
    "PlainEpisode",
    "Reply",
    "Services",
    "TaskSpec",
    "WorldConfig",
]
