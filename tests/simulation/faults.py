"""What can go wrong inside a step: a process dies at any call into broker, files, control database or lake."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from streaming.clock import Clock
from warehouse import files
from warehouse.control import Control


class Crash(BaseException):
    """The process is gone: no handler runs, as none does after ``kill -9``."""


class Hands(Clock):
    """The clock of the simulation: time passes when it is told to, and the wall's may step."""

    def __init__(self, base_ns: int) -> None:
        self._base = base_ns
        self.now = 0.0
        self.step_s = 0.0

    def time_ns(self) -> int:
        """See ``Clock``."""
        return self._base + int((self.now + self.step_s) * 1e9)

    def monotonic(self) -> float:
        """See ``Clock``."""
        return self.now

    def unix(self) -> float:
        """Return the database's clock, which is the wall's: unix seconds."""
        return self.time_ns() / 1e9


class Fuses:
    """Counts calls to the outside, and lets the process that runs die at the one that its fuse names."""

    def __init__(self) -> None:
        self.burning: dict[str, int] = {}
        self.running = ""

    def point(self) -> None:
        """Pass one call; raises Crash when it is the last."""
        left = self.burning.get(self.running)
        if left is None:
            return
        if left <= 0:
            del self.burning[self.running]
            raise Crash
        self.burning[self.running] = left - 1

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Pass a call that may die before it has done anything, or after it has done all."""
        self.point()
        yield
        self.point()


class Ledger(Control):
    """The control database in this process's memory, on the simulation's clock."""

    def __init__(self, clock: Hands, fuses: Fuses) -> None:
        super().__init__("sqlite://", clock.unix)
        self._fuses = fuses
        self.commits = 0
        self.prepare()

    def write(self, work: Callable) -> object:
        """See ``Control``; a death inside rolls back."""

        def fragile(connection):
            result = work(connection)
            self._fuses.point()
            return result

        with self._fuses.around():
            result = super().write(fragile)
            self.commits += 1
        return result

    def read(self, work: Callable) -> object:
        """See ``Control``."""
        self._fuses.point()
        return super().read(work)


@contextlib.contextmanager
def fragile_files(fuses: Fuses) -> Iterator[None]:
    """Let a process die before and after a file is staged, and before and after it gets its name."""
    real_stage, real_settle = files.stage, files.settle

    def stage(path: Path, data: bytes) -> Path:
        with fuses.around():
            return real_stage(path, data)

    def settle(staged: Path, path: Path) -> None:
        with fuses.around():
            real_settle(staged, path)

    with contextlib.ExitStack() as stack:
        for module in ("warehouse.files", "warehouse.registry"):
            stack.enter_context(mock.patch(f"{module}.stage", stage))
            stack.enter_context(mock.patch(f"{module}.settle", settle))
        yield
