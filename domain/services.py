"""The services between the topics, declared in the order of the flow: what each does, whom it follows, what it reads.

A new one is an entry here and a builder ``_<name>`` in ``orchestration.bootstrap``; all else follows from these two.
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL_MODEL = "initial_model"
"""What must be there before any service: the first version of every line."""

PARTITIONING = ("instruments", "interval")
MARKET = ("market.source", "market.path", "market.seed", "market.opens", "market.history_days")
"""What makes a market the one that it is; how fast it runs is its feed's business."""


@dataclass(frozen=True)
class Role:
    """A service's place in the flow.

    Attributes
    ----------
    follows : the services, or ``initial_model``, whose output it takes up
    settings : fields of ``Project`` that its process reads; a change of another one leaves it alone
    kinds : what it is made with, as labels
    text : what it does, for people
    optional : whether it runs only while there is something for it to do
    """

    follows: tuple[str, ...]
    settings: tuple[str, ...]
    kinds: frozenset[str]
    text: str
    optional: bool = False


FLOW = {
    "ingest": Role(
        (INITIAL_MODEL,),
        (*PARTITIONING, *MARKET, "market.speed", "market.record"),
        frozenset({"kafka"}),
        """Brings the market in: trades (or candles) become topic `trades` (`bars`), each event once and in order. It
begins at the seam, where the first model's history ends.""",
    ),
    "featurizer": Role(
        ("ingest",),
        (*PARTITIONING, *MARKET, "lateness", "horizon"),
        frozenset({"kafka"}),
        """Turns trades into bars, bars into vectors (topic `features`), and one horizon later the same vectors
with their answers (topic `features_with_target`): by the very steps that filled `bars`, `features` and `examples`.""",
    ),
    "trainer": Role(
        (INITIAL_MODEL, "featurizer"),
        # Not the fleet: a line's models are in its versions, and a changed fleet takes effect with a first model.
        (*PARTITIONING, "horizon", "publish.examples", "publish.every_s"),
        frozenset({"kafka", "river"}),
        """Learns every example as its answer becomes known, scores the prediction made when it was asked, and publishes
versions: model, offsets and watermark as one value. Restarted, it goes on exactly where its newest one stands.""",
    ),
    "challenger": Role(
        (INITIAL_MODEL, "featurizer"),
        (*PARTITIONING, "horizon", "publish.examples", "publish.every_s"),
        frozenset({"kafka", "river"}),
        """The same trainer, for lines that challenge those that serve: made by job `retrain` or `unlearn`, they learn
beside the live trainer. When one is promoted, the two trainers exchange their lines while they run.""",
        optional=True,
    ),
    "predictor": Role(
        ("featurizer", "trainer"),
        (*PARTITIONING, "horizon", "market.source"),
        frozenset({"kafka"}),
        """Answers every vector with the newest version (topic `predictions`), swapping models between two vectors, and
serves the answers over HTTP, each with version, model age and number of examples learned.""",
    ),
    "lander": Role(
        ("featurizer", "predictor"),
        (*PARTITIONING, "horizon"),
        frozenset({"kafka", "duckdb"}),
        """Lands bars, vectors, examples and predictions in the lake: rows and offset in one transaction, each once.""",
    ),
}

SERVICES = tuple(FLOW)

STREAMS = tuple(name for name, role in FLOW.items() if not role.optional)
"""The services that always run."""
