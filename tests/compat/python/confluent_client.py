"""librdkafka through confluent-kafka.

    check BOOTSTRAP PREFIX RELAY     all checks, one line each
    write BOOTSTRAP PREFIX           the records of records.py into PREFIX-CODEC for every codec
    dump BOOTSTRAP TOPIC...          prints what it reads
    member BOOTSTRAP TOPIC GROUP ASSIGNOR   a group member, until it is killed
    load BOOTSTRAP TOPIC PARTITIONS PRODUCER 1 RATE FILE   for the crash tests: as `load` of ../go/load.go, one producer
    follow BOOTSTRAP TOPIC PARTITIONS FILE                 as `follow` of ../go/load.go, without commits

MERIDIAN_TEST_RACK is the consumers' rack: fetches go to a replica there (KIP-392).
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions, ConsumerGroupState, IsolationLevel, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

import records
from checks import REPLICAS, Checks, equal, eventually, fails, holds

WAIT_S = 90
TOPIC_CONFIG = {"max.message.bytes": str(records.MESSAGE_BYTES_MAX), "retention.ms": "-1"}


@functools.cache
def admin_for(bootstrap):
    # Kept: a client that is collected cancels the calls it has in flight.
    return AdminClient({"bootstrap.servers": bootstrap})


def result(futures):
    """The result of a call about one thing."""
    (future,) = futures.values()
    return future.result(WAIT_S)


def code(expected):
    """Whether an error is a KafkaException with this code."""
    return lambda error: isinstance(error, KafkaException) and error.args[0].code() == expected


def create(bootstrap, topic, partitions=1, config=None):
    new = NewTopic(topic, partitions, REPLICAS, config={**TOPIC_CONFIG, **(config or {})})
    result(admin_for(bootstrap).create_topics([new], operation_timeout=WAIT_S))


def producer_for(bootstrap, **settings):
    config = {"bootstrap.servers": bootstrap, "message.max.bytes": records.MESSAGE_BYTES_MAX, "linger.ms": 5, "acks": "all"}
    config.update({k.replace("_", "."): v for k, v in settings.items()})
    return Producer(config)


def consumer_for(bootstrap, group="nobody", **settings):
    config = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 100,
        "topic.metadata.refresh.interval.ms": 2000,
    }
    config.update({k.replace("_", "."): v for k, v in settings.items()})
    return Consumer(config)


def write_records(bootstrap, topic, codec):
    producer = producer_for(bootstrap, compression_type=codec)
    offsets, errors = {}, []

    def delivered(index):
        def report(error, message):
            if error:
                errors.append("record %d: %s" % (index, error))
            else:
                offsets[index] = message.offset()

        return report

    for i in range(records.COUNT):
        producer.produce(
            topic,
            partition=0,
            key=records.key(i),
            value=records.value(i),
            headers=records.headers(i),
            timestamp=records.timestamp_ms(i),
            on_delivery=delivered(i),
        )
    equal(producer.flush(WAIT_S), 0, "records without a delivery report")
    equal(errors, [], "delivery errors")
    equal([offsets[i] for i in range(records.COUNT)], list(range(records.COUNT)), "offsets in the delivery reports")


def read(bootstrap, topic, count, partition=0, offset=OFFSET_BEGINNING, **settings):
    consumer = consumer_for(bootstrap, **settings)
    consumer.assign([TopicPartition(topic, partition, offset)])
    got = []
    deadline = time.monotonic() + WAIT_S
    while len(got) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        got.append(message)
    consumer.close()
    holds(len(got) >= count, "only %d of %d records of %s arrived" % (len(got), count, topic))
    return got


def lines(topic, messages):
    return [
        records.line(topic, m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers()) for m in messages
    ]


def produce_consume(bootstrap, topic, codec):
    create(bootstrap, topic)
    write_records(bootstrap, topic, codec)
    equal(lines(topic, read(bootstrap, topic, records.COUNT)), records.expected(topic), "what was read")
    # From the middle of a batch: the broker gives the whole batch, the client drops the head.
    middle = read(bootstrap, topic, 5, offset=records.COUNT - 5)
    equal(lines(topic, middle), records.expected(topic)[-5:], "what was read from the middle")


def acks(bootstrap, topic):
    create(bootstrap, topic)
    for level in ["0", "1", "all"]:
        producer = producer_for(bootstrap, acks=level)
        producer.produce(topic, b"acks " + level.encode(), partition=0)
        equal(producer.flush(WAIT_S), 0, "unsent records")
    equal([m.value() for m in read(bootstrap, topic, 3)], [b"acks 0", b"acks 1", b"acks all"], "values")


def too_large(bootstrap, topic):
    create(bootstrap, topic, config={"max.message.bytes": "10000"})
    producer = producer_for(bootstrap)
    reports = []
    producer.produce(topic, b"x" * 20_000, partition=0, on_delivery=lambda error, _: reports.append(error))
    producer.flush(WAIT_S)
    equal(reports[0].code(), KafkaError.MSG_SIZE_TOO_LARGE, "the error of a record above max.message.bytes")
    producer.produce(topic, b"small", partition=0)
    producer.flush(WAIT_S)
    equal([m.value() for m in read(bootstrap, topic, 1)], [b"small"], "what is stored")


def list_offsets(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap, linger_ms=0)
    base = records.TIMESTAMP_BASE_MS
    for i in range(10):
        producer.produce(topic, b"%d" % i, partition=0, timestamp=base + 100 * i)
        if i % 3 == 0:
            producer.flush(WAIT_S)
    producer.flush(WAIT_S)
    consumer = consumer_for(bootstrap)
    equal(consumer.get_watermark_offsets(TopicPartition(topic, 0), WAIT_S), (0, 10), "earliest and latest")

    def at(time_ms):
        return consumer.offsets_for_times([TopicPartition(topic, 0, time_ms)], WAIT_S)[0].offset

    equal(at(base - 1), 0, "the offset before all times")
    equal(at(base + 400), 4, "the offset at an exact time")
    equal(at(base + 401), 5, "the offset between two times")
    equal(at(base + 900), 9, "the offset at the last time")
    equal(at(base + 901), -1, "the offset after all times")
    consumer.close()
    admin = admin_for(bootstrap)

    def listed(spec, isolation=IsolationLevel.READ_UNCOMMITTED):
        return result(admin.list_offsets({TopicPartition(topic, 0): spec}, isolation_level=isolation))

    equal(listed(OffsetSpec.earliest()).offset, 0, "earliest")
    equal(listed(OffsetSpec.latest()).offset, 10, "latest")
    equal(listed(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED).offset, 10, "latest, read committed")
    newest = listed(OffsetSpec.max_timestamp())
    equal((newest.offset, newest.timestamp), (9, base + 900), "max timestamp")
    by_time = listed(OffsetSpec.for_timestamp(base + 250))
    equal((by_time.offset, by_time.timestamp), (3, base + 300), "by time")


def out_of_range(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    producer.produce(topic, b"only", partition=0)
    producer.flush(WAIT_S)
    consumer = consumer_for(bootstrap, auto_offset_reset="error")
    consumer.assign([TopicPartition(topic, 0, 1000)])
    message = eventually(WAIT_S, "an error", lambda: consumer.poll(0.5))
    equal(message.error().code(), KafkaError._AUTO_OFFSET_RESET, "the error of an offset past the end")
    consumer.close()
    equal(read(bootstrap, topic, 1, offset=1000)[0].value(), b"only", "what the reset to earliest reads")


class Member:
    """A member in another process, so that it can be lost without a word."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-u", __file__, "member", *arguments], stdout=subprocess.PIPE, text=True
        )
        self.owned = None
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        for line in self.process.stdout:
            self.owned = int(line)

    def kill(self):
        self.process.kill()
        self.process.wait()


def member(bootstrap, topic, group, assignor):
    consumer = consumer_for(bootstrap, group, partition_assignment_strategy=assignor, session_timeout_ms=6000)
    consumer.subscribe([topic])
    while True:
        consumer.poll(0.1)
        print(len(consumer.assignment()), flush=True)


def rebalance(bootstrap, topic, assignor):
    create(bootstrap, topic, partitions=6)
    group = topic + "-group"
    consumer = consumer_for(
        bootstrap, group, partition_assignment_strategy=assignor, session_timeout_ms=6000, heartbeat_interval_ms=500
    )
    seen = []

    def poll():
        message = consumer.poll(0.1)
        if message is not None and not message.error():
            seen.append((message.partition(), message.value()))

    def owns(count, other=None):
        poll()
        return len(consumer.assignment()) == count and (other is None or other.owned == 6 - count)

    consumer.subscribe([topic])
    state = lambda: "assignment %s" % consumer.assignment()
    eventually(WAIT_S, state, lambda: owns(6))
    other = Member(bootstrap, topic, group, assignor)
    try:
        eventually(WAIT_S, state, lambda: owns(3, other))
    finally:
        other.kill()
    # Nobody says goodbye: the session must expire.
    eventually(WAIT_S, state, lambda: owns(6))
    producer = producer_for(bootstrap)
    for p in range(6):
        producer.produce(topic, b"after", partition=p)
    producer.flush(WAIT_S)
    eventually(WAIT_S, lambda: "seen %s" % seen, lambda: poll() or len(seen) == 6)
    equal(sorted(seen), [(p, b"after") for p in range(6)], "records after the rebalance")
    consumer.close()


def static_member(bootstrap, topic):
    create(bootstrap, topic, partitions=4)
    group = topic + "-group"
    changes = []

    def join(instance, changes):
        consumer = consumer_for(
            bootstrap, group, group_instance_id=instance, session_timeout_ms=30000, heartbeat_interval_ms=300
        )
        consumer.subscribe(
            [topic], on_assign=lambda _, p: changes.append("assign"), on_revoke=lambda _, p: changes.append("revoke")
        )
        return consumer

    stays, leaves = join("one", changes), join("two", [])
    balanced = lambda: (stays.poll(0.1), leaves.poll(0.1), len(stays.assignment()) == len(leaves.assignment()) == 2)[2]
    eventually(WAIT_S, "two partitions each", balanced)
    before, owned = len(changes), sorted(p.partition for p in leaves.assignment())
    leaves.close()
    returned = join("two", [])
    eventually(WAIT_S, "the member is back", lambda: (stays.poll(0.1), returned.poll(0.1), len(returned.assignment()) == 2)[2])
    equal(sorted(p.partition for p in returned.assignment()), owned, "the partitions of the member that came back")
    for _ in range(10):
        stays.poll(0.1)
    equal(len(changes), before, "rebalances of the member that stayed (%s)" % changes)
    # The same instance id twice: the older one is fenced.
    usurper = join("two", [])
    error = []

    def fenced():
        usurper.poll(0.1)
        stays.poll(0.1)
        try:
            message = returned.poll(0.1)
            if message is not None and message.error():
                error.append(message.error().code())
        except KafkaException as e:
            error.append(e.args[0].code())
        return error

    eventually(WAIT_S, "the older instance is fenced", fenced)
    holds(error[0] in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL), "the older instance got error %s" % error)
    for consumer in (stays, returned, usurper):
        consumer.close()


def commit_and_seek(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    for i in range(20):
        producer.produce(topic, b"%d" % i, partition=0)
    producer.flush(WAIT_S)
    group = topic + "-group"
    consumer = consumer_for(bootstrap, group)
    consumer.subscribe([topic])

    def next_value():
        return eventually(WAIT_S, "a record", lambda: consumer.poll(0.5)).value()

    equal([next_value() for _ in range(7)], [b"%d" % i for i in range(7)], "the first records")
    consumer.commit(offsets=[TopicPartition(topic, 0, 7, metadata="seven, ünïcode")], asynchronous=False)
    stored = consumer.committed([TopicPartition(topic, 0)], WAIT_S)[0]
    equal((stored.offset, stored.metadata), (7, "seven, ünïcode"), "the commit read back")
    consumer.seek(TopicPartition(topic, 0, 15))
    equal(next_value(), b"15", "the record after a seek forward")
    consumer.seek(TopicPartition(topic, 0, 2))
    equal(next_value(), b"2", "the record after a seek back")
    consumer.close()
    consumer = consumer_for(bootstrap, group)
    consumer.subscribe([topic])
    equal(next_value(), b"7", "the first record after a rejoin")
    consumer.close()
    nothing = consumer_for(bootstrap, group + "-new")
    equal(nothing.committed([TopicPartition(topic, 0)], WAIT_S)[0].offset, -1001, "the offset of a group without commits")
    nothing.close()


def wait_for_leaders(bootstrap, topic, partitions):
    """Waits until every partition answers.

    On Kafka a new topic may refuse the first batch of a producer and accept its second, whose sequence number it then
    takes for the first: the retry can never succeed.
    """
    consumer = consumer_for(bootstrap)

    def answers(partition):
        try:
            return consumer.get_watermark_offsets(TopicPartition(topic, partition), WAIT_S)
        except KafkaException:
            return None

    for p in range(partitions):
        eventually(WAIT_S, "partition %d answers" % p, lambda: answers(p))
    consumer.close()


def idempotent_through_cuts(bootstrap, topic, relay):
    create(bootstrap, topic, partitions=3)
    wait_for_leaders(bootstrap, topic, 3)
    producer = producer_for(
        relay, enable_idempotence=True, linger_ms=0, reconnect_backoff_ms=20, reconnect_backoff_max_ms=100, retry_backoff_ms=20
    )
    offsets, errors = {}, []

    def report(error, message):
        if error:
            errors.append(str(error))
        else:
            offsets[message.value()] = (message.partition(), message.offset())

    for burst in range(60):
        for n in range(10):
            i = burst * 10 + n
            producer.produce(topic, b"%06d" % i, partition=i % 3, on_delivery=report)
        producer.poll(0.02)
        # So often that responses are lost however few batches a slow machine makes of the records.
        if burst % 2 == 0:
            producer.flush(WAIT_S)
    equal(producer.flush(2 * WAIT_S), 0, "records without a delivery report")
    equal(errors, [], "delivery errors")
    for p in range(3):
        want = [b"%06d" % i for i in range(600) if i % 3 == p]
        got = read(bootstrap, topic, len(want), partition=p)
        equal([m.value() for m in got], want, "values of partition %d" % p)
        equal([(p, m.offset()) for m in got], [offsets[m.value()] for m in got], "offsets acknowledged in partition %d" % p)


def topics(bootstrap, prefix):
    admin = admin_for(bootstrap)
    a, b = prefix + "-a", prefix + "-b"
    futures = admin.create_topics([NewTopic(a, 3, REPLICAS), NewTopic(b, 1, REPLICAS, config={"retention.ms": "12345"})])
    for future in futures.values():
        future.result(WAIT_S)
    known = admin.list_topics(timeout=WAIT_S).topics
    equal((len(known[a].partitions), len(known[b].partitions)), (3, 1), "partitions")
    described = result(admin.describe_topics(TopicCollection([a])))
    equal(len(described.partitions), 3, "described partitions")
    holds(all(p.leader is not None for p in described.partitions), "every partition has a leader")
    copies = [(len(p.replicas), len(p.isr)) for p in described.partitions]
    equal(copies, [(REPLICAS, REPLICAS)] * 3, "replicas, and replicas in sync")
    holds(str(described.topic_id) not in ("", "AAAAAAAAAAAAAAAAAAAAAA"), "the topic has an id")
    fails("creating it twice", code(KafkaError.TOPIC_ALREADY_EXISTS), lambda: result(admin.create_topics([NewTopic(a, 3, 1)])))
    fails("a bad name", code(KafkaError.TOPIC_EXCEPTION), lambda: result(admin.create_topics([NewTopic("bad name!", 1, 1)])))
    fails("no partitions", code(KafkaError.INVALID_PARTITIONS), lambda: result(admin.create_topics([NewTopic(prefix + "-c", 0, 1)])))
    fails(
        "too many replicas",
        code(KafkaError.INVALID_REPLICATION_FACTOR),
        lambda: result(admin.create_topics([NewTopic(prefix + "-c", 1, 9)])),
    )
    fails(
        "an unknown setting",
        code(KafkaError.INVALID_CONFIG),
        lambda: result(admin.create_topics([NewTopic(prefix + "-c", 1, 1, config={"no.such.setting": "1"})])),
    )
    result(admin.create_topics([NewTopic(prefix + "-v", 1, 1)], validate_only=True))
    holds(prefix + "-v" not in admin.list_topics(timeout=WAIT_S).topics, "validate_only creates nothing")
    result(admin.delete_topics([a]))
    eventually(WAIT_S, "the topic is gone", lambda: a not in admin.list_topics(timeout=WAIT_S).topics)
    fails("deleting it twice", code(KafkaError.UNKNOWN_TOPIC_OR_PART), lambda: result(admin.delete_topics([a])))


def partitions(bootstrap, topic):
    create(bootstrap, topic, partitions=2)
    admin = admin_for(bootstrap)
    result(admin.create_partitions([NewPartitions(topic, 5)]))
    eventually(WAIT_S, "five partitions", lambda: len(admin.list_topics(topic, timeout=WAIT_S).topics[topic].partitions) == 5)
    fails("fewer partitions", code(KafkaError.INVALID_PARTITIONS), lambda: result(admin.create_partitions([NewPartitions(topic, 3)])))
    producer = producer_for(bootstrap)
    producer.produce(topic, b"last", partition=4)
    equal(producer.flush(WAIT_S), 0, "unsent records")
    equal(read(bootstrap, topic, 1, partition=4)[0].value(), b"last", "the record of the new partition")


def configs(bootstrap, topic):
    create(bootstrap, topic)
    admin = admin_for(bootstrap)
    resource = lambda **settings: ConfigResource(ResourceType.TOPIC, topic, **settings)
    described = lambda: result(admin.describe_configs([resource()]))
    before = described()
    equal(before["retention.ms"].value, "-1", "retention.ms")
    equal(ConfigSource(before["retention.ms"].source), ConfigSource.DYNAMIC_TOPIC_CONFIG, "the source of retention.ms")
    equal(before["cleanup.policy"].value, "delete", "cleanup.policy")
    holds(before["cleanup.policy"].is_default, "cleanup.policy is a default")
    holds("segment.bytes" in before and "compression.type" in before, "the usual settings are described")

    def alter(*entries):
        change = resource(
            incremental_configs=[ConfigEntry(name, value, incremental_operation=op) for name, value, op in entries]
        )
        return result(admin.incremental_alter_configs([change]))

    alter(("retention.ms", "777000", AlterConfigOpType.SET), ("cleanup.policy", "compact", AlterConfigOpType.APPEND))
    eventually(WAIT_S, "retention.ms is set", lambda: described()["retention.ms"].value == "777000")
    equal(sorted(described()["cleanup.policy"].value.split(",")), ["compact", "delete"], "cleanup.policy after append")
    alter(("retention.ms", None, AlterConfigOpType.DELETE), ("cleanup.policy", "compact", AlterConfigOpType.SUBTRACT))
    eventually(WAIT_S, "retention.ms is a default", lambda: described()["retention.ms"].is_default)
    equal(described()["cleanup.policy"].value, "delete", "cleanup.policy after subtract")
    bad = code(KafkaError.INVALID_CONFIG)
    fails("a bad value", bad, lambda: alter(("retention.ms", "soon", AlterConfigOpType.SET)))
    fails("an unknown setting", bad, lambda: alter(("no.such.setting", "1", AlterConfigOpType.SET)))
    # The legacy call replaces all: what is not named goes back to its default.
    alter(("retention.bytes", "1000000", AlterConfigOpType.SET))
    eventually(WAIT_S, "retention.bytes is set", lambda: described()["retention.bytes"].value == "1000000")
    result(admin.alter_configs([resource(set_config={"retention.ms": "888000"})]))
    eventually(WAIT_S, "retention.ms is set", lambda: described()["retention.ms"].value == "888000")
    holds(described()["retention.bytes"].is_default, "the legacy alter resets what it does not name")
    broker = str(admin.describe_cluster().result(WAIT_S).controller.id)
    settings = result(admin.describe_configs([ConfigResource(ResourceType.BROKER, broker)]))
    holds(len(settings) > 0, "the broker has settings")
    fails(
        "describing an unknown topic",
        code(KafkaError.UNKNOWN_TOPIC_OR_PART),
        lambda: result(admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic + "-no")])),
    )


def delete_records(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    for i in range(10):
        producer.produce(topic, b"%d" % i, partition=0)
    producer.flush(WAIT_S)
    admin = admin_for(bootstrap)
    equal(result(admin.delete_records([TopicPartition(topic, 0, 4)])).low_watermark, 4, "the low watermark")
    equal([m.offset() for m in read(bootstrap, topic, 6)], list(range(4, 10)), "the offsets that are left")
    consumer = consumer_for(bootstrap)
    equal(consumer.get_watermark_offsets(TopicPartition(topic, 0), WAIT_S), (4, 10), "earliest and latest")
    consumer.close()
    fails(
        "deleting past the end",
        code(KafkaError.OFFSET_OUT_OF_RANGE),
        lambda: result(admin.delete_records([TopicPartition(topic, 0, 11)])),
    )
    equal(result(admin.delete_records([TopicPartition(topic, 0, -1)])).low_watermark, 10, "the low watermark after all")


def groups(bootstrap, topic):
    create(bootstrap, topic, partitions=2)
    admin = admin_for(bootstrap)
    group = topic + "-group"
    consumer = consumer_for(bootstrap, group, client_id="a-member")
    consumer.subscribe([topic])
    eventually(WAIT_S, "an assignment", lambda: consumer.poll(0.1) or len(consumer.assignment()) == 2)
    consumer.commit(offsets=[TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0, metadata="m")], asynchronous=False)
    listed = lambda: {g.group_id: g.state for g in admin.list_consumer_groups().result(WAIT_S).valid}
    equal(listed().get(group), ConsumerGroupState.STABLE, "the listed group")
    described = result(admin.describe_consumer_groups([group]))
    equal((described.state, described.partition_assignor), (ConsumerGroupState.STABLE, "range"), "the described group")
    equal([m.client_id for m in described.members], ["a-member"], "its members")
    equal(sorted(p.partition for p in described.members[0].assignment.topic_partitions), [0, 1], "its assignment")
    fails("deleting a group in use", code(KafkaError.NON_EMPTY_GROUP), lambda: result(admin.delete_consumer_groups([group])))
    consumer.close()
    eventually(WAIT_S, "the group is empty", lambda: listed().get(group) == ConsumerGroupState.EMPTY)
    change = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 5)])
    result(admin.alter_consumer_group_offsets([change]))
    read_back = result(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])).topic_partitions
    equal(sorted((p.partition, p.offset) for p in read_back), [(0, 5), (1, 0)], "offsets after an alter")
    result(admin.delete_consumer_groups([group]))
    holds(group not in listed(), "the group is gone")
    fails("deleting it twice", code(KafkaError.GROUP_ID_NOT_FOUND), lambda: result(admin.delete_consumer_groups([group])))


def cluster(bootstrap, _):
    described = admin_for(bootstrap).describe_cluster().result(WAIT_S)
    holds(described.cluster_id, "the cluster has an id")
    holds(described.nodes, "the cluster has nodes")
    addresses = ["%s:%d" % (n.host, n.port) for n in described.nodes]
    holds(bootstrap in addresses, "%s is one of %s" % (bootstrap, addresses))
    holds(described.controller.id in [n.id for n in described.nodes], "the controller is a node")


def auto_create(bootstrap, topic):
    producer = producer_for(bootstrap)
    producer.produce(topic, b"first")
    equal(producer.flush(WAIT_S), 0, "unsent records")
    equal(read(bootstrap, topic, 1)[0].value(), b"first", "the record of the new topic")


def unknown_topic(bootstrap, topic):
    consumer = consumer_for(bootstrap, allow_auto_create_topics=False)
    consumer.subscribe([topic])
    message = eventually(WAIT_S, "an error", lambda: consumer.poll(0.5))
    equal(message.error().code(), KafkaError.UNKNOWN_TOPIC_OR_PART, "the error")
    consumer.close()
    holds(topic not in admin_for(bootstrap).list_topics(timeout=WAIT_S).topics, "a look does not create a topic")
    create(bootstrap, topic)
    reports = []
    producer = producer_for(bootstrap)
    producer.produce(topic, b"x", partition=7, on_delivery=lambda e, _: reports.append(e))
    producer.flush(WAIT_S)
    equal(reports[0].code(), KafkaError._UNKNOWN_PARTITION, "the error of an unknown partition")


def check(bootstrap, prefix, relay):
    checks = Checks()
    # Made before there are threads: two would race, and the loser's client is collected with its calls.
    admin_for(bootstrap)
    run = lambda name, function, *more: checks.run(name, function, bootstrap, "%s-%s" % (prefix, name), *more)
    assignors = ["range", "roundrobin", "cooperative-sticky"]
    # The groups wait for sessions to expire: side by side.
    waiting = [threading.Thread(target=run, args=("rebalance-" + a, rebalance, a)) for a in assignors]
    for thread in waiting:
        thread.start()
    for codec in records.CODECS:
        run("produce-consume-" + codec, produce_consume, codec)
    run("acks", acks)
    run("record-too-large", too_large)
    run("list-offsets", list_offsets)
    run("offset-out-of-range", out_of_range)
    run("static-member", static_member)
    run("commit-and-seek", commit_and_seek)
    run("idempotent-through-cuts", idempotent_through_cuts, relay)
    run("admin-topics", topics)
    run("admin-partitions", partitions)
    run("admin-configs", configs)
    run("admin-delete-records", delete_records)
    run("admin-groups", groups)
    run("admin-cluster", cluster)
    run("auto-create", auto_create)
    run("unknown-topic", unknown_topic)
    for thread in waiting:
        thread.join()
    return checks.failed


def load(bootstrap, topic, partitions, producer, rate, path):
    stopping = []
    # What librdkafka is to tell of itself, such as eos,msg.
    debug = {"debug": os.environ["RDKAFKA_DEBUG"]} if "RDKAFKA_DEBUG" in os.environ else {}
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    client = producer_for(
        bootstrap,
        enable_idempotence=True,
        compression_type="zstd",
        # Without a deadline: an idempotent producer retries until it knows.
        message_timeout_ms=0,
        socket_timeout_ms=10000,
        retry_backoff_ms=20,
        reconnect_backoff_ms=20,
        reconnect_backoff_max_ms=200,
        queue_buffering_max_messages=2000,
        **debug,
    )
    sequences, errors = [0] * partitions, []
    with open(path, "w", buffering=1) as out:

        def report(error, message):
            if error:
                errors.append("record %s: %s" % (message.value(), error))
            elif message.offset() is None:
                # The answer was lost, and a later batch is acknowledged: librdkafka takes this one for acknowledged too.
                out.write(persisted(message.value()))
            else:
                out.write(placed("ok", message.value(), message.offset()))

        sent = 0
        started = time.monotonic()
        while not stopping and not errors:
            client.poll(0.01)
            while sent < rate * (time.monotonic() - started) and not stopping:
                partition = sent % partitions
                value = "%d %d %d" % (producer, partition, sequences[partition])
                try:
                    client.produce(topic, value.encode(), partition=partition, on_delivery=report)
                except BufferError:
                    # As much is in flight as may be; the server is away.
                    break
                sequences[partition] += 1
                sent += 1
        equal(client.flush(60), 0, "records in flight that were not settled")
        equal(errors, [], "delivery errors")
        for partition, count in enumerate(sequences):
            line = {"type": "sent", "producer": producer, "partition": partition, "count": count}
            out.write(json.dumps(line) + "\n")


def persisted(value):
    """A line of tests/checker/src/lines.rs, for a record of unknown offset."""
    producer, partition, sequence = value.decode().split(" ")
    return '{"type":"persisted","producer":%s,"partition":%s,"sequence":%s}\n' % (producer, partition, sequence)


def placed(outcome, value, offset):
    """A line of tests/checker/src/lines.rs."""
    producer, partition, sequence = value.decode().split(" ")
    return '{"type":"%s","producer":%s,"partition":%s,"sequence":%s,"offset":%d}\n' % (
        outcome,
        producer,
        partition,
        sequence,
        offset,
    )


def follow(bootstrap, topic, partitions, path):
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    consumer = consumer_for(
        bootstrap,
        client_rack=os.environ.get("MERIDIAN_TEST_RACK", ""),
        socket_timeout_ms=10000,
        reconnect_backoff_ms=20,
        reconnect_backoff_max_ms=200,
    )
    # From the start by number: a reader that is reset to another offset has lost its place, and the checker sees it.
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    with open(path, "w") as out:
        for p in range(partitions):
            out.write('{"type":"position","partition":%d,"offset":0}\n' % p)
        while not stopping:
            for message in consumer.consume(1000, 0.1):
                # Errors of a server that is away are the client's to retry.
                if not message.error():
                    read = {"type": "read", "partition": message.partition(), "offset": message.offset()}
                    out.write(json.dumps({**read, "value": message.value().decode()}) + "\n")
    consumer.close()


def main():
    verb, bootstrap, *rest = sys.argv[1:]
    if verb == "check":
        sys.exit(1 if check(bootstrap, *rest) else 0)
    elif verb == "write":
        for codec in records.CODECS:
            topic = "%s-%s" % (rest[0], codec)
            create(bootstrap, topic)
            write_records(bootstrap, topic, codec)
    elif verb == "dump":
        for topic in rest:
            for line in lines(topic, read(bootstrap, topic, records.COUNT)):
                print(line)
    elif verb == "member":
        member(bootstrap, *rest)
    elif verb == "load":
        topic, partitions, producer, count, rate, path = rest
        equal(count, "1", "producers of this program")
        load(bootstrap, topic, int(partitions), int(producer), int(rate), path)
    elif verb == "follow":
        topic, partitions, path = rest
        follow(bootstrap, topic, int(partitions), path)
    else:
        sys.exit("unknown verb %r" % verb)


if __name__ == "__main__":
    main()
