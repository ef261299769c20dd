"""The properties of Kafka clients: those that are ours, and whether librdkafka knows what ``TIDEMILL_KAFKA`` adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

from domain.config import Places
from domain.errors import UsageError
from domain.spelling import meant

READS: Mapping[str, str | int | float | bool] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    # On loopback a waiting fetch costs nothing; 10 ms keeps a quiet partition from delaying a busy one.
    "fetch.wait.max.ms": 10,
    "fetch.queue.backoff.ms": 10,
    # Bounded by bytes; by count librdkafka pauses up to a second whenever 100,000 small records are queued.
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 65_536,
}
"""Of readers: offsets are those of checkpoints."""

WRITES: Mapping[str, str | int | float | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "queue.buffering.max.messages": 200_000,
    "message.timeout.ms": 120_000,
}
"""Of writers: a record is written once and in order, or the process stops."""

_BROKERS = frozenset({"bootstrap.servers", "metadata.broker.list"})

_OURS = frozenset(
    {
        *READS, *WRITES, "auto.commit.enable", "compression.codec", "delivery.timeout.ms", "enable.gapless.guarantee",
        "group.id", "group.instance.id", "group.protocol", "group.remote.assignor", "isolation.level", "linger.ms",
        "message.send.max.retries", "partition.assignment.strategy", "queue.buffering.max.ms",
        "request.required.acks", "retries", "statistics.interval.ms", "transactional.id",
    }
)  # fmt: skip
"""What delivery once and in order rests on, by all its names."""

_KNOWN = """
acks allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
auto.commit.enable auto.commit.interval.ms auto.offset.reset batch.num.messages batch.size bootstrap.servers
broker.address.family broker.address.ttl broker.version.fallback check.crcs client.dns.lookup client.id
client.rack compression.codec compression.level compression.type connections.max.idle.ms
consume.callback.max.messages coordinator.query.interval.ms debug delivery.report.only.error delivery.timeout.ms
enable.auto.commit enable.auto.offset.store enable.gapless.guarantee enable.idempotence enable.metrics.push
enable.partition.eof enable.random.seed enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification
enabled_events fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes
fetch.queue.backoff.ms fetch.wait.max.ms group.id group.instance.id group.protocol group.protocol.type
group.remote.assignor heartbeat.interval.ms https.ca.location https.ca.pem interceptors
internal.termination.signal isolation.level linger.ms log.connection.close log.queue log.thread.name log_level
max.in.flight max.in.flight.requests.per.connection max.partition.fetch.bytes max.poll.interval.ms
max.poll.records message.copy.max.bytes message.max.bytes message.send.max.retries message.timeout.ms
metadata.broker.list metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
msg_order_cmp offset.store.method offset.store.path offset.store.sync.interval.ms partition.assignment.strategy
partitioner plugin.library.paths produce.offset.report queue.buffering.backpressure.threshold
queue.buffering.max.kbytes queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes
queued.min.messages queuing.strategy receive.message.max.bytes reconnect.backoff.jitter.ms
reconnect.backoff.max.ms reconnect.backoff.ms request.required.acks request.timeout.ms retries
retry.backoff.max.ms retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.kinit.cmd
sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism
sasl.mechanisms sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.credentials.client.id
sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.id sasl.oauthbearer.client.secret
sasl.oauthbearer.config sasl.oauthbearer.extensions sasl.oauthbearer.grant.type
sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method sasl.oauthbearer.scope
sasl.oauthbearer.sub.claim.name sasl.oauthbearer.token.endpoint.url sasl.password sasl.username security.protocol
session.timeout.ms share.acknowledgement.mode socket.blocking.max.ms socket.connection.setup.timeout.ms
socket.keepalive.enable socket.max.fails socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes
socket.timeout.ms ssl.ca.certificate.stores ssl.ca.location ssl.ca.pem ssl.certificate.location
ssl.certificate.pem ssl.cipher.suites ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm
ssl.engine.id ssl.engine.location ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location
ssl.keystore.password ssl.providers ssl.sigalgs.list ssl_ca ssl_certificate ssl_engine_callback_data ssl_key
statistics.interval.ms sticky.partitioning.linger.ms topic.blacklist topic.metadata.propagation.max.ms
topic.metadata.refresh.fast.cnt topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms
topic.metadata.refresh.sparse transaction.timeout.ms transactional.id
"""
"""librdkafka's names, to guess what was meant; it alone decides which there are."""


def try_properties(places: Places) -> None:
    """Make a reader and a writer with the settings of ``TIDEMILL_KAFKA``, which connect nowhere.

    Raises
    ------
    UsageError
        When a property is ours, is not known, or has a value that it cannot have.
    """
    for name in places.kafka:
        if name in _BROKERS:
            raise UsageError(f"TIDEMILL_KAFKA: {name} is not for here; set TIDEMILL_KAFKA_BOOTSTRAP_SERVERS instead")
        if name in _OURS:
            raise UsageError(f"TIDEMILL_KAFKA: {name} is Tidemill's, for records once and in order; remove it")
    quiet: dict[str, Any] = {"log_level": 0, **places.kafka}
    try:
        Producer({**WRITES, **quiet})
        Consumer({**READS, "group.id": "tidemill", **quiet}).close()
    except (KafkaException, TypeError, ValueError, AttributeError) as error:
        told = error.args[0] if isinstance(error, KafkaException) else None
        words = " ".join(str(told.str() if told is not None else error).split())
        near = next((meant(name, _KNOWN.split()) for name in places.kafka if f'"{name}"' in words), "")
        raise UsageError(
            f"TIDEMILL_KAFKA: {words}{near if 'No such' in words else ''}; correct or remove it, librdkafka's "
            "CONFIGURATION.md lists the properties"
        ) from error
