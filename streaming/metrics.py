"""What a monitor scrapes: every service's heartbeat, the dead letters and the served models, as Prometheus text.

References
----------
Exposition format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from domain.events import Prediction
from domain.health import Beat

Labels = Mapping[str, str]
Sample = tuple[Labels, float]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    beats: Iterable[Beat], dead_letters: Mapping[tuple[str, str], int], latest: Iterable[Prediction], now: float
) -> str:
    """Return the metrics.

    Parameters
    ----------
    beats : of every service and instance; the newest start of a service counts
    dead_letters : by service and reason
    latest : the newest prediction of each instrument
    now : unix seconds
    """
    newest = {beat.service: beat for beat in sorted(beats, key=lambda beat: beat.started_at)}
    services = [({"service": name}, beat) for name, beat in newest.items()]
    latest = list(latest)
    dead = [({"service": service, "reason": reason}, float(n)) for (service, reason), n in dead_letters.items()]
    made = [(labels, float(beat.detail["predictions"])) for labels, beat in services if "predictions" in beat.detail]
    parts = [
        _family("tidemill_dead_letters_total", "counter", "Records refused.", dead),
        _family("tidemill_predictions_total", "counter", "Predictions since the predictor's start.", made),
        _family(
            "tidemill_lag_records", "gauge", "Records waiting; absent while unknown.",
            [(labels, float(beat.lag)) for labels, beat in services if beat.lag is not None],
        ),
        _family(
            "tidemill_heartbeat_age_seconds", "gauge", "Seconds since the service's loop last turned.",
            [(labels, max(0.0, now - beat.beat_at)) for labels, beat in services],
        ),
        _family("tidemill_ready", "gauge", "The service's own word.", [(n, float(b.ready)) for n, b in services]),
        _family(
            "tidemill_repeated_records_total", "counter", "Records dropped as not newer, since the service's start.",
            [(n, float(b.detail["repeated"])) for n, b in services if "repeated" in b.detail],
        ),
        *_models(latest),
    ]  # fmt: skip
    return "".join(parts)


def _models(latest: list[Prediction]) -> list[str]:
    def of(field: str) -> list[Sample]:
        return [({"instrument": p.instrument}, float(getattr(p, field))) for p in latest]

    return [
        _family("tidemill_model_version", "gauge", "Version that serves.", of("model_version")),
        _family("tidemill_model_age_seconds", "gauge", "Event time since the newest label it knew.", of("model_age_s")),
        _family("tidemill_model_learned_examples", "gauge", "Examples that it had learned.", of("n_learned")),
    ]


def _family(name: str, kind: str, text: str, samples: Sequence[Sample]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        lines.append(f"{name}{{{inside}}} {value:.17g}")
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
