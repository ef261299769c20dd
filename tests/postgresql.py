"""A PostgreSQL server of the tests' own: the distribution's binaries, a free loopback port, a temporary directory."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

USER, PASSWORD = "mill", "not/a secret"


class NoServerError(Exception):
    """The machine has no PostgreSQL; the message says what to install."""


class Postgresql:
    """A server with password authentication that gives away empty schemas."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
        initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
        if initdb is None:
            raise NoServerError("install the distribution's package postgresql")
        self.bin = Path(initdb).resolve().parent
        # The server refuses to run as root.
        self.account = _ordinary_account() if os.getuid() == 0 else None
        self.port = _free_port()
        self._names = (f"mill_{n}" for n in itertools.count())

    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="tidemill-postgresql-"))
        secret = self.home / "secret"
        secret.write_text(PASSWORD)
        if self.account is not None:
            for path in (self.home, secret):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)
        options = ["--no-sync", "--locale=C", "--encoding=UTF8", "--auth=scram-sha-256"]
        self._run("initdb", "-D", self.home / "data", "-U", USER, f"--pwfile={secret}", *options).wait()
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self.home, "fsync": "off"}
        settings |= {"timezone": "Asia/Tokyo"}  # not UTC, as many are
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.process = self._run("postgres", "-D", self.home / "data", "-p", str(self.port), *flags)
        self._wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        self.process.wait(30)
        shutil.rmtree(self.home)

    def database(self) -> str:
        """Return the URL of a new empty schema, without a driver, as a person writes it.

        A database of its own would be a thousand files for each test.
        """
        name = next(self._names)
        self._execute(f"CREATE SCHEMA {name}")
        own = self.url.update_query_dict({"options": f"-csearch_path={name}"})
        return own.render_as_string(hide_password=False)

    @property
    def url(self) -> sa.URL:
        return sa.URL.create("postgresql", USER, PASSWORD, "127.0.0.1", self.port, "postgres")

    def _execute(self, statement: str) -> None:
        url = self.url.set(drivername="postgresql+psycopg2")
        engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                return self._execute("SELECT 1")
            except sa.exc.OperationalError:
                log = (self.home / "log").read_text()
                assert self.process.poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.05)

    def _run(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        account = self.account
        who = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self.home / "log").open("ab") as log:
            command = [self.bin / program, *map(str, arguments)]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.home, **who)


def _ordinary_account() -> pwd.struct_passwd:
    names = {account.pw_name: account for account in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
