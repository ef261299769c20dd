"""Addresses as people write them: ports, the URLs of databases, and the brokers of Kafka."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BeforeValidator

from domain.spelling import meant

LAST_PORT = 65_535

POSTGRESQL = "postgresql://user:password@host/database"
SQLITE = "sqlite:////directory/control.sqlite"

_URL = re.compile(
    r"(?:(?P<user>[^:/@]*)(?::(?P<password>[^@]*))?@)?(?:\[(?P<six>[^\]/?]+)\]|(?P<host>[^/:?@\[\]]+))?"
    r"(?::(?P<port>[^/?]*))?(?:/(?P<database>[^?]*))?(?:\?(?P<options>.*))?\Z"
)
_BROKER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>.*))?")
_SQLITE_PATH = 500
"""SQLite opens no path of more than 512 bytes, and adds a suffix for its log."""

_OPTIONS = (
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name",
    "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
    "keepalives_interval", "krbsrvname", "load_balance_hosts", "options", "passfile", "password", "port",
    "replication", "require_auth", "requirepeer", "service", "ssl_max_protocol_version", "ssl_min_protocol_version",
    "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation",
    "sslpassword", "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout", "user",
)  # fmt: skip
"""What libpq takes behind the question mark."""


def parse_port(value: object) -> int:
    """Return a TCP port.

    >>> parse_port("8095")
    8095

    Raises
    ------
    ValueError
        When it is not a whole number from 1 to 65535.
    """
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,5}", str(value)) or not 1 <= int(str(value)) <= LAST_PORT:
        raise ValueError(f"{str(value)[:40]!r} is not a port; write a whole number from 1 to {LAST_PORT}")
    return int(str(value))


def with_driver(url: str) -> str:
    """Return a database's URL with the one PostgreSQL driver that Tidemill and Dagster share.

    >>> with_driver("postgresql://mill@db/mill")
    'postgresql+psycopg2://mill@db/mill'
    """
    scheme, rest = url.partition("://")[::2]
    return f"postgresql+psycopg2://{rest}" if scheme in {"postgres", "postgresql"} else url


def parse_postgresql(url: str) -> str:
    """Return a PostgreSQL URL with its driver, or nothing for none; the message repeats no password.

    Raises
    ------
    ValueError
        When it is of another database, or names no host, a wrong port or an unknown option.
    """
    if not url:
        return ""
    scheme, separator, rest = with_driver(url).partition("://")
    if not separator:
        raise ValueError(f"is not a database's URL; write {POSTGRESQL}")
    if scheme != "postgresql+psycopg2":
        raise ValueError(f"{_named(scheme)}is not PostgreSQL; write {POSTGRESQL}")
    found = _URL.match(rest)
    if found is None or re.search(r"\s", (found["host"] or "") + (found["database"] or "")):
        raise ValueError(f"cannot be read as a URL; write {POSTGRESQL}, with %40 for an @ in the password")
    options = _options_of(found["options"] or "")
    if not (found["host"] or found["six"] or options.get("host") or options.get("service")):
        raise ValueError(f"names no host; write {POSTGRESQL}")
    for port in (found["port"], options.get("port")):
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= LAST_PORT):
            raise ValueError(f"names a port that is not a whole number from 1 to {LAST_PORT}; write {POSTGRESQL}")
    return f"{scheme}://{rest}"


def _options_of(text: str) -> dict[str, str]:
    if "@" in text:
        raise ValueError(f"cannot be read as a URL; write {POSTGRESQL}, with %3F for a ? in the password")
    options = dict(parse_qsl(text, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"has the option {name[:40]!r}, which PostgreSQL does not know{_or_remove(name)}")
    return options


def _named(scheme: str) -> str:
    """Return a scheme to be shown; nothing where it may be another part of a URL that was mixed up."""
    return f"{scheme[:40]!r} " if re.fullmatch("[a-z0-9+]*", scheme) else ""


def parse_control(url: str) -> str:
    """Return the URL of a control database, SQLite's or PostgreSQL's, or nothing for none.

    Raises
    ------
    ValueError
        When it is of another database, or of a SQLite that other processes cannot share.
    """
    scheme, separator, rest = url.partition("://")
    if not url or scheme.startswith("postgres"):
        parse_postgresql(url)
        return url
    if not separator or scheme not in {"sqlite", "sqlite+pysqlite"}:
        what = f"{_named(scheme)}is not a database it can use" if separator else "is not a database's URL"
        raise ValueError(f"{what}; write {SQLITE} or {POSTGRESQL}")
    path = rest.removeprefix("/")
    if rest in {"", "/"} or ":memory:" in rest or path.startswith("file:"):
        raise ValueError(f"is a SQLite in memory, which other processes do not see; name a file: {SQLITE}")
    if not rest.startswith("/"):
        raise ValueError(f"names a host, which SQLite does not have; name a file: {SQLITE}")
    if "?" in path:
        raise ValueError(f"has options, which are not for SQLite here; remove them: {SQLITE}")
    if not path.startswith("/"):
        raise ValueError(f"is a relative path, which each process would find elsewhere; write four slashes: {SQLITE}")
    if len(path.encode()) > _SQLITE_PATH or "\0" in path:
        raise ValueError(f"is a path that SQLite cannot open; write one of at most {_SQLITE_PATH} characters")
    return url


def parse_brokers(text: str) -> str:
    """Return the list of brokers that a Kafka client starts from, or nothing for none.

    Raises
    ------
    ValueError
        When a part is not ``host:port``, or comes twice.
    """
    parts = text.split(",") if text else []
    for part in parts:
        found, shown = _BROKER.fullmatch(part), part.rpartition("@")[2][:100]  # before it a password may stand
        if "://" in part:
            raise ValueError(f"{shown!r} has a scheme; write host:port, and security.protocol in TIDEMILL_KAFKA")
        if found is None:
            raise ValueError(f"{shown!r} is not a broker; write host:port, or several with commas and no blanks")
        if found["port"] is None:
            raise ValueError(f"{part[:100]!r} has no port; write {part[:100]}:9092")
        if not re.fullmatch(r"[0-9]{1,5}", found["port"]) or not 1 <= int(found["port"]) <= LAST_PORT:
            raise ValueError(f"{part[:100]!r} has no port from 1 to {LAST_PORT}; write host:port")
        if parts.count(part) > 1:
            raise ValueError(f"{part[:100]!r} comes twice; remove one")
    return text


def _or_remove(name: str) -> str:
    return f"{meant(name, _OPTIONS)}; remove it or correct its spelling"


Port = Annotated[int, BeforeValidator(parse_port)]
ControlUrl = Annotated[str, AfterValidator(parse_control)]
PostgresqlUrl = Annotated[str, AfterValidator(parse_postgresql)]
Brokers = Annotated[str, AfterValidator(parse_brokers)]
