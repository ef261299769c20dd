"""A topic of the dev broker as its catalog holds it, for those who look at a data directory at rest, too."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """What a topic is.

    Attributes
    ----------
    id : a topic deleted and made again under its name has another
    settings : those chosen; the others have their defaults
    """

    name: str
    id: str
    partitions: int
    settings: Mapping[str, str]

    @property
    def uuid(self) -> uuid.UUID:
        """The identity as the protocol has it."""
        return uuid.UUID(self.id)

    @property
    def directory(self) -> str:
        """The name of its directory: for people the name, for the broker the id."""
        return f"{self.name[:200]}.{self.uuid.hex}"
