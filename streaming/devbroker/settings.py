"""Topic settings: the ones this broker honours, with Apache Kafka's names and defaults; any other is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kio.schema.errors import ErrorCode

from streaming.devbroker.refusals import Refusal

Kind = Literal["int", "long", "string", "list"]
_LONG = (1 << 63) - 1
_INT = (1 << 31) - 1

MAX_BATCH = 16 << 20
"""The largest batch a topic may allow: while one is written, everybody waits."""


@dataclass(frozen=True)
class Setting:
    """One setting: what it is without being set, and what it may be.

    Attributes
    ----------
    default : as a client would write it
    kind : the protocol's type of it
    allowed : the words it may be, or the lowest and highest number
    says : one line for whoever asks the broker
    """

    default: str
    kind: Kind
    allowed: tuple[str, ...] | tuple[int, int]
    says: str

    def accepts(self, value: str) -> bool:
        """Tell whether a value may stand here."""
        if self.kind in {"string", "list"}:
            return value in self.allowed
        try:
            number = int(value)
        except ValueError:
            return False
        lowest, highest = self.allowed
        return int(lowest) <= number <= int(highest)


SETTINGS: Mapping[str, Setting] = {
    "cleanup.policy": Setting("delete", "list", ("delete",), "Old segments are deleted; there is no compaction."),
    "compression.type": Setting("producer", "string", ("producer",), "Batches stay as their producer made them."),
    "max.message.bytes": Setting("1048588", "int", (0, MAX_BATCH), "The largest record batch."),
    "message.timestamp.after.max.ms": Setting(
        "3600000", "long", (0, _LONG), "How far ahead of the broker's clock a record's time may be."
    ),
    "message.timestamp.type": Setting(
        "CreateTime", "string", ("CreateTime", "LogAppendTime"), "Whose clock stamps a record."
    ),
    "min.insync.replicas": Setting("1", "int", (1, 1), "There is one replica."),
    "retention.bytes": Setting("-1", "long", (-1, _LONG), "Bytes of a partition to keep; -1 is no limit."),
    "retention.ms": Setting("604800000", "long", (-1, _LONG), "Age at which a segment is deleted; -1 is never."),
    # Kafka's default is 1 GiB; on one machine the disk comes back sooner with smaller ones.
    "segment.bytes": Setting("67108864", "int", (14, _INT), "Size at which a new segment is begun."),
    "segment.ms": Setting("604800000", "long", (1, _LONG), "Time span at which a new segment is begun."),
}


@dataclass(frozen=True)
class LogSettings:
    """The settings of a topic as its logs use them."""

    max_message_bytes: int
    log_append_time: bool
    ahead_ms: int
    retention_bytes: int
    retention_ms: int
    segment_bytes: int
    segment_ms: int


def log_settings(chosen: Mapping[str, str]) -> LogSettings:
    """Return the settings of a topic, defaults where nothing was chosen."""
    value = {name: chosen.get(name, setting.default) for name, setting in SETTINGS.items()}
    return LogSettings(
        max_message_bytes=int(value["max.message.bytes"]),
        log_append_time=value["message.timestamp.type"] == "LogAppendTime",
        ahead_ms=int(value["message.timestamp.after.max.ms"]),
        retention_bytes=int(value["retention.bytes"]),
        retention_ms=int(value["retention.ms"]),
        segment_bytes=int(value["segment.bytes"]),
        segment_ms=int(value["segment.ms"]),
    )


def checked(chosen: Mapping[str, str | None]) -> dict[str, str]:
    """Return settings as they may be stored.

    Raises
    ------
    Refusal
        INVALID_CONFIG for a setting this broker does not honour, or a value it may not have.
    """
    for name, value in chosen.items():
        setting = SETTINGS.get(name)
        if setting is None:
            raise Refusal(ErrorCode.invalid_config, f"{name}: not a setting of the dev broker ({', '.join(SETTINGS)})")
        if value is not None and not setting.accepts(value):
            raise Refusal(ErrorCode.invalid_config, f"{name}={value}: must be of {setting.allowed}. {setting.says}")
    return {name: value for name, value in chosen.items() if value is not None}
