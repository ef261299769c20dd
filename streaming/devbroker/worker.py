"""The worker: one thread for what would keep the event loop, and with it every other client, waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Worker:
    """Runs one piece of work at a time, in the order asked.

    Notes
    -----
    One thread, not several: each takes the interpreter from the event loop for 5 ms at a time.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "worker")

    async def run(
        self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Return what a function returns, or raise what it raises.

        Notes
        -----
        Once begun it is finished, even when the client that asked has gone meanwhile.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._thread.shutdown(wait=True, cancel_futures=True)
