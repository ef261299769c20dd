"""One node of Apache Kafka (KRaft, broker and controller in one process) that only this machine can reach."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.kafka.jars import jars, java
from domain.errors import BadState, Unavailable

STARTS_WITHIN_S = 120.0
STOPS_WITHIN_S = 30.0

# A short start matters more than peak speed: serial collector, first compiler only.
_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    # One node holds everything once.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # A group of one machine is complete as soon as its first member is there.
    "group.initial.rebalance.delay.ms": "0",
    # A killed node may register again only when its former self has timed out; the default of 9 s is for a network.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Small, for a laptop beside everything else.
    "num.network.threads": "1",
    "num.io.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.index.size.max.bytes": "1048576",
}


class KafkaNode:
    """Apache Kafka as a child process; its ports stay its own over restarts.

    Parameters
    ----------
    home
        Its directory: settings, log and data, which outlive it.
    port : where clients connect; 0 takes a free one

    Raises
    ------
    Missing
        When Java or the jars are not here.
    """

    def __init__(self, home: Path, port: int = 0) -> None:
        self.home = home.absolute()
        self._java, self._jars = java(), jars()
        self._controller, self.port = _free_ports(2)
        self.port = port or self.port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What clients bootstrap from."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        if self._process is None:
            raise BadState("this Apache Kafka does not run")
        return self._process.pid

    def start(self) -> None:
        """Start it, on a formatted directory, and return when it answers.

        Raises
        ------
        Unavailable
            When it ends instead, or does not answer in time; the message carries the end of its log.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self._write_settings()
        if not (self.home / "data" / "meta.properties").exists():
            self._format()
        with (self.home / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._settings)),
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, and return its exit code (143 is Java's for a SIGTERM obeyed)."""
        return self._end(signal.SIGTERM)

    def wipe(self) -> None:
        """Remove everything it holds, when it does not run.

        Raises
        ------
        BadState
            While it runs.
        """
        if not self.ended:
            raise BadState(f"Apache Kafka runs on {self.home} (process {self.pid}); stop it first")
        shutil.rmtree(self.home / "data", ignore_errors=True)

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is None or self._process.poll() is not None

    def refuse_ended(self) -> None:
        """Complain when it has ended by itself.

        Raises
        ------
        Unavailable
            Then; the message carries the end of its log.
        """
        if self.ended:
            raise Unavailable(f"Apache Kafka ended by itself: {self._last_words()}")

    @property
    def _settings(self) -> Path:
        return self.home / "server.properties"

    def _write_settings(self) -> None:
        settings = {
            **_SETTINGS,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "log.dirs": str(self.home / "data"),
        }
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), "utf-8")

    def _format(self) -> None:
        # As Kafka writes ids; one that began with a dash would be taken for a flag.
        cluster = "T" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        command = self._command("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings))
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise Unavailable(f"Apache Kafka cannot format {self.home}: {(ran.stderr or ran.stdout).strip()}")

    def _command(self, main: str, *arguments: str) -> list[str]:
        logging = Path(__file__).parent / "log4j2.properties"
        about = [f"-Dtidemill.kafka.home={self.home}", f"-Dlog4j2.configurationFile={logging}"]
        return [self._java, *_JVM, *about, "-cp", f"{self._jars}/*", main, *arguments]

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 200})
        while time.monotonic() < deadline:
            self.refuse_ended()
            with contextlib.suppress(KafkaException):
                if admin.list_topics(timeout=0.5).brokers:
                    return
        raise Unavailable(f"Apache Kafka did not answer within {STARTS_WITHIN_S:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        logs = [self.home / name for name in ("console.log", "kafka.log")]
        said = [line for log in logs if log.exists() for line in log.read_text("utf-8", "replace").splitlines()]
        return (
            " | ".join([line for line in said if " at " not in line and "\tat " not in line][-3:]) or "it says nothing"
        )

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(STOPS_WITHIN_S)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
