"""A predictor's board, served by a process whose limit of open files is small: ``python -m tests.attacks.board N``.

It prints its URL, then the number of each turn. Like a service it opens a file in each turn, so that it ends where
strangers take all descriptors. It ends when its standard input is closed.
"""

from __future__ import annotations

import resource
import select
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def main(files: int) -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    from domain.events import Prediction
    from streaming.serving import Board, Server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    board = Board(["a:B"], simulated=True)
    server = Server(board, port)
    server.start()
    print(server.url, flush=True)  # noqa: T201 - its answer
    n = 0
    with TemporaryDirectory() as scratch:
        while not select.select([sys.stdin], [], [], 0.25)[0]:
            n += 1
            Path(scratch, "state").write_text(str(n))
            board.show([Prediction(f"a:B/{n}/300", "a:B", n * 10**9, 300, 0.5, 0.6, 1.7, 3, 99, n * 10**9, 1)])
            board.turned = time.monotonic()
            print(n, flush=True)  # noqa: T201
    server.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
