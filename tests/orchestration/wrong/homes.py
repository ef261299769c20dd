"""Damaged homes: what is done to the place of a home, what is called, the exit code, and words of the refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]

OTHER = "with another TIDEMILL_HOME"


def _holding(name: str, content: bytes, mode: int = 0o600) -> Damage:
    def damage(home: Path) -> None:
        path = home / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.chmod(mode)

    return damage


def _market(content: str) -> Damage:
    return _holding("market.json", content.encode())


def _file(home: Path) -> None:
    home.write_text("not a directory")


def _dangling(home: Path) -> None:
    home.symlink_to("/nowhere/mill")


def _loop(home: Path) -> None:
    home.symlink_to(home)


def _folder(name: str) -> Damage:
    return lambda home: (home / name).mkdir(parents=True)


GOOD = '{"source": "simulated", "opens": "2025-01-08T00:00:00Z", "configured": "simulated", %s}'

HOMES: list[tuple[str, Damage, str, int, str, str]] = [
    *((f"a file, {call}", _file, call, 2, "is not a directory", "name a directory")
      for call in ("up", "status", "down", "logs", "run ingest", "doctor")),
    ("a dangling link", _dangling, "up", 2, "is a link to nothing", "name a directory"),
    ("a link to itself", _loop, "up", 2, "TIDEMILL_HOME: ", "name a"),
    *((f"market.json is {name}", _market(text), call, 1, "market.json: is damaged", OTHER)
      for name, text, call in (
          ("empty", "", "up"), ("cut", '{"source": "sim', "up"), ("a list", "[]", "status"), ("null", "null", "up"),
          ("without opens", '{"source": "box"}', "up"), ("of another kind", '{"source": 5}', "run ingest"),
          ("of an unknown market", '{"source": "nasdaq", "opens": "2025-01-08", "configured": "auto"}', "up"),
          ("with more", GOOD % '"colour": 5', "up"))),
    ("market.json is binary", _holding("market.json", bytes(range(256))), "up", 1, "market.json: is damaged", OTHER),
    ("market.json is a folder", _folder("market.json"), "up", 1, "market.json: is damaged", OTHER),
    ("market.json is of other instruments", _market(GOOD % '"instruments": ["simulated:X"], "seed": 7'), "up", 2,
     "instruments are simulated:BTC-USD", "append to these, or set TIDEMILL_HOME"),
    ("market.json is of another seed", _market(GOOD % '"instruments": ["simulated:BTC-USD"], "seed": 8'), "up", 2,
     "market.seed is 7", "set TIDEMILL_HOME to another directory"),
    ("market.json is of another market", _market(GOOD.replace("simulated", "box") % '"seed": 7'), "status", 2,
     "holds the market box, not simulated", "set TIDEMILL_HOME to another directory"),
    ("control.sqlite is text", _holding("control.sqlite", b"a letter" * 100), "up", 1,
     "control.sqlite is not a SQLite database", OTHER),
    ("control.sqlite is text, for a service", _holding("control.sqlite", b"a letter" * 100), "run ingest", 1,
     "control.sqlite is not a SQLite database", OTHER),
    ("control.sqlite is a folder", _folder("control.sqlite"), "up", 1, "control.sqlite is a directory", OTHER),
    ("model.key is short", _holding("model.key", b"short\n"), "up", 2, "model.key has 5 characters", "openssl rand"),
    ("model.key is empty", _holding("model.key", b""), "up", 2, "model.key has 0 characters", "openssl rand"),
    ("model.key is one letter", _holding("model.key", b"x" * 64), "up", 2, "model.key repeats 1", "openssl rand"),
    ("model.key is open to others", _holding("model.key", b"0123456789abcdef" * 4, 0o644), "up", 2,
     "model.key has mode 0644", "chmod 600"),
    ("model.key is binary", _holding("model.key", b"\xff" * 64), "up", 2, "model.key: ", "restore the key"),
    ("model.key is a folder", _folder("model.key"), "up", 2, "model.key: ", "restore the key"),
]  # fmt: skip
"""Name, damage, call, exit code (1 where it is bad state), words."""
