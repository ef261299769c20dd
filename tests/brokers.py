"""A real broker process for tests, started on a free port and ended by its pid; and the plain things to do with one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer

ROOT = Path(__file__).parents[1]
STARTS_WITHIN_S = 30.0
DEADLINE_S = 20.0


class BrokerProcess:
    """A dev broker as a child process; its port stays its own over restarts.

    Parameters
    ----------
    data
        Its data directory, which outlives it.
    arguments
        More flags for the command.
    """

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.arguments = arguments
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it listens."""
        command = [sys.executable, "-m", "streaming.devbroker", "--data", str(self.data), "--port", str(self.port)]
        address = self.data / "address"
        address.unlink(missing_ok=True)  # a killed broker leaves it behind
        self._process = subprocess.Popen([*command, *self.arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"the broker ended with code {self._process.returncode} instead of listening")
            if address.exists():
                self.port = int(address.read_text().rsplit(":", 1)[1])
                return
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f"the broker did not listen within {STARTS_WITHIN_S} s")

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        return self._end(signal.SIGTERM)

    def ended(self, within_s: float = 60.0) -> int:
        """Wait until it has ended by itself, or because it was asked to, and return its exit code."""
        assert self._process is not None
        return self._process.wait(within_s)

    def wipe(self) -> None:
        """Remove everything it holds; it must not run."""
        assert self._process is None
        shutil.rmtree(self.data)
        self.data.mkdir()

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            os.kill(process.pid, number)
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
            raise


@contextmanager
def broker_process(data: Path, *arguments: str) -> Iterator[BrokerProcess]:
    """Yield a running broker that may be killed and started again."""
    broker = BrokerProcess(data, *arguments)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def running_broker(tmp_path: Path) -> Iterator[str]:
    """Yield the bootstrap address of a running broker whose data is below ``tmp_path``."""
    with broker_process(tmp_path / "broker") as broker:
        yield broker.address


def fill(
    producer: Producer, topic: str, values: Sequence[object], partition: int = 0, times: Sequence[int] = ()
) -> None:
    """Produce values (at times in ms, where given) and return when all are acknowledged."""
    failed = []
    for number, value in enumerate(values):
        producer.produce(
            topic,
            str(value),
            partition=partition,
            timestamp=times[number] if times else 0,
            on_delivery=lambda error, _: error and failed.append(error),
        )
    assert producer.flush(DEADLINE_S) == 0
    assert not failed, failed


def refusal_of(call: Callable[[], object]) -> int:
    """Return the error code a call is refused with."""
    try:
        call()
    except KafkaException as error:
        return error.args[0].code()
    raise AssertionError("it was not refused")


def one(futures: dict) -> object:
    """Return the result of the only future of an admin call."""
    (future,) = futures.values()
    return future.result(DEADLINE_S)


def settled(members: Sequence[Consumer], sizes: Sequence[int]) -> list[set[int]]:
    """Poll the members of a group until each has so many partitions, and return the partitions of each."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        for member in members:
            member.poll(0.05)
        shares = [{partition.partition for partition in member.assignment()} for member in members]
        if [len(share) for share in shares] == list(sizes):
            return shares
        assert time.monotonic() < deadline, shares
