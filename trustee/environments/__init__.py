"""The worlds of the package, and the parts for writing your own."""

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
