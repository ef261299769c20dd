"""The HTTP API: every answer carries the model's version and age, and every mistake gets one clear answer."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

from domain.errors import UsageError
from domain.events import Prediction
from domain.health import Beat
from streaming.app import Pulse
from streaming.serving import Board, Server
from warehouse.control import Control
from warehouse.heartbeats import Heartbeats

pytestmark = pytest.mark.process

ODD_NUMBERS = ("x", "1_0", "%201", "1%20", "%2B5", "%D9%A3", "501")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prediction(n, instrument="a:B"):
    return Prediction(f"{instrument}/{n}/300", instrument, n * 10**9, 300, 0.5, 0.6, 1.7, 3, 99, (n - 2) * 10**9, 1)


@pytest.fixture
def served():
    board = Board(["a:B", "a:C"], simulated=True)
    server = Server(board, free_port())
    server.start()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=1):
                break
        except OSError:
            time.sleep(0.02)
    yield board, server
    server.stop()


def get(server, path):
    try:
        with urllib.request.urlopen(server.url + path, timeout=5) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_latest_prediction_carries_version_age_and_what_was_learned(served):
    board, server = served
    board.show([prediction(10), prediction(11)])
    status, body = get(server, "/predictions?instrument=a:B")
    assert status == 200
    assert (body["model_version"], body["model_age_s"], body["n_learned"]) == (3, 2.0, 99)
    assert body["simulated"] is True
    assert body["ts_event"] == 11 * 10**9
    assert [p["instrument"] for p in get(server, "/predictions")[1]] == ["a:B"]


def test_recent_predictions_come_newest_first_and_no_more_than_asked(served):
    board, server = served
    board.show([prediction(n) for n in range(20)])
    status, body = get(server, "/predictions/a:B?limit=3")
    assert status == 200
    assert [p["ts_event"] // 10**9 for p in body] == [19, 18, 17]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/predictions/a:Z", 404, "a:B"),
        ("/predictions/a:C", 503, "yet"),
        ("/predictions/a:B?limit=0", 400, "limit"),
        *((f"/predictions/a:B?limit={odd}", 400, "limit") for odd in ODD_NUMBERS),
    ],
)
def test_a_mistake_gets_one_clear_answer(served, path, status, word):
    board, server = served
    board.show([prediction(1)])
    found, body = get(server, path)
    assert found == status
    assert word in body["error"]


def test_live_follows_the_loop_and_ready_follows_the_predictor(served):
    board, server = served
    assert get(server, "/livez")[0] == 200
    assert get(server, "/readyz")[0] == 503
    board.pulse = Pulse(ready=True, lag=4)
    board.show([prediction(1)])
    assert get(server, "/readyz") == (200, {"ready": True, "lag": 4})
    for lag, why in ((None, "the broker does not answer"), (10_001, "10,001 records behind")):
        board.pulse = Pulse(ready=True, lag=lag)
        assert get(server, "/readyz") == (503, {"ready": False, "lag": lag, "why": why})
    board.pulse = Pulse(ready=True, lag=4)
    board.turned -= 11
    assert get(server, "/livez")[0] == 503
    assert get(server, "/readyz")[0] == 503, "what hangs cannot be relied on"


def test_the_event_stream_tells_each_prediction_as_it_is_made(served):
    board, server = served
    board.show([prediction(1)])
    got = []

    def listen():
        with urllib.request.urlopen(server.url + "/stream", timeout=10) as reply:
            for line in reply:
                if line.startswith(b"data:"):
                    got.append(json.loads(line[5:])["ts_event"] // 10**9)
                    if len(got) == 3:
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    until = time.monotonic() + 10
    while not got and time.monotonic() < until:
        time.sleep(0.02)
    board.show([prediction(2)])
    board.show([prediction(3)])
    thread.join(timeout=10)
    assert got == [1, 2, 3]


def test_metrics_name_every_service_reason_and_model_in_the_words_of_prometheus(tmp_path):
    with Control.open(f"sqlite:///{tmp_path / 'control.sqlite'}") as control:
        control.count_dead_letter("lander", 'a "quoted" reason', 3)
        now = time.time()
        beat = Beat("predictor", "x", 1, "running", 0, {}, 5, now, 7, True, now, now, {"predictions": 9, "repeated": 2})
        while not Heartbeats(control).beat(beat):
            time.sleep(0.01)
        board = Board(["a:B"], simulated=False)
        board.show([prediction(12)])
        server = Server(board, free_port(), control)
        server.start()
        try:
            until = time.monotonic() + 10
            while True:
                try:
                    with urllib.request.urlopen(server.url + "/metrics", timeout=5) as reply:
                        kind, text = reply.headers["content-type"], reply.read().decode()
                    break
                except urllib.error.URLError:
                    assert time.monotonic() < until
                    time.sleep(0.02)
        finally:
            server.stop()
    assert kind.startswith("text/plain; version=0.0.4")
    lines = set(text.splitlines())
    assert lines >= {
        'tidemill_dead_letters_total{service="lander",reason="a \\"quoted\\" reason"} 3',
        "# TYPE tidemill_dead_letters_total counter",
        'tidemill_lag_records{service="predictor"} 7',
        'tidemill_predictions_total{service="predictor"} 9',
        'tidemill_repeated_records_total{service="predictor"} 2',
        'tidemill_ready{service="predictor"} 1',
        'tidemill_model_version{instrument="a:B"} 3',
        'tidemill_model_age_seconds{instrument="a:B"} 2',
        'tidemill_model_learned_examples{instrument="a:B"} 99',
    }
    assert any(line.startswith('tidemill_heartbeat_age_seconds{service="predictor"} ') for line in lines)


def test_a_taken_port_is_one_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="TIDEMILL_SERVING_PORT"):
            Server(Board(["a:B"], simulated=False), taken.getsockname()[1]).start()
