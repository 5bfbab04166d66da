"""kafka-python.

    check BOOTSTRAP PREFIX RELAY     all checks, one line each
    write BOOTSTRAP PREFIX           the records of records.py into PREFIX-CODEC for every codec
    dump BOOTSTRAP TOPIC...          prints what it reads
    member BOOTSTRAP TOPIC GROUP ASSIGNOR   a group member, until it is killed
"""

import functools
import subprocess
import sys
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.structs import OffsetAndMetadata

import records
from checks import REPLICAS, Checks, equal, eventually, fails, holds

WAIT_S = 90
# The client refuses null header values when it writes; it reads them.
NULLS = False
TOPIC_CONFIG = {"max.message.bytes": str(records.MESSAGE_BYTES_MAX), "retention.ms": "-1"}
ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}


@functools.cache
def admin_for(bootstrap):
    return KafkaAdminClient(bootstrap_servers=bootstrap)


def create(bootstrap, topic, partitions=1, config=None):
    admin_for(bootstrap).create_topics(
        {topic: {"num_partitions": partitions, "replication_factor": REPLICAS, "configs": {**TOPIC_CONFIG, **(config or {})}}}
    )


def producer_for(bootstrap, **settings):
    base = {"bootstrap_servers": bootstrap, "max_request_size": records.MESSAGE_BYTES_MAX, "linger_ms": 5, "acks": "all"}
    return KafkaProducer(**{**base, **settings})


def consumer_for(bootstrap, *topics, **settings):
    base = {
        "bootstrap_servers": bootstrap,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 200,
        "metadata_max_age_ms": 2000,
    }
    return KafkaConsumer(*topics, **{**base, **settings})


def send_all(producer, topic, values, partition=0):
    futures = [producer.send(topic, value, partition=partition) for value in values]
    return [future.get(WAIT_S).offset for future in futures]


def write_records(bootstrap, topic, codec):
    producer = producer_for(bootstrap, compression_type=None if codec == "none" else codec)
    futures = [
        producer.send(
            topic,
            records.value(i),
            records.key(i),
            headers=records.headers(i, NULLS),
            partition=0,
            timestamp_ms=records.timestamp_ms(i),
        )
        for i in range(records.COUNT)
    ]
    producer.flush(WAIT_S)
    equal([f.get(WAIT_S).offset for f in futures], list(range(records.COUNT)), "the acknowledged offsets")
    producer.close()


def read(bootstrap, topic, count, partition=0, offset=0):
    consumer = consumer_for(bootstrap)
    at = TopicPartition(topic, partition)
    consumer.assign([at])
    consumer.seek(at, offset)
    got = []
    deadline = time.monotonic() + WAIT_S
    while len(got) < count:
        holds(time.monotonic() < deadline, "only %d of %d records of %s arrived" % (len(got), count, topic))
        for messages in consumer.poll(500).values():
            got.extend(messages)
    consumer.close()
    return got


def lines(topic, messages):
    return [records.line(topic, m.offset, m.timestamp, m.key, m.value, m.headers) for m in messages]


def produce_consume(bootstrap, topic, codec):
    create(bootstrap, topic)
    write_records(bootstrap, topic, codec)
    want = records.expected(topic, NULLS)
    equal(lines(topic, read(bootstrap, topic, records.COUNT)), want, "what was read")
    # From the middle of a batch: the broker gives the whole batch, the client drops the head.
    middle = read(bootstrap, topic, 5, offset=records.COUNT - 5)
    equal(lines(topic, middle), want[-5:], "what was read from the middle")


def acks(bootstrap, topic):
    create(bootstrap, topic)
    for level in [0, 1, "all"]:
        producer = producer_for(bootstrap, acks=level, enable_idempotence=False)
        producer.send(topic, b"acks %s" % str(level).encode(), partition=0)
        producer.flush(WAIT_S)
        producer.close()
    equal([m.value for m in read(bootstrap, topic, 3)], [b"acks 0", b"acks 1", b"acks all"], "values")


def too_large(bootstrap, topic):
    create(bootstrap, topic, config={"max.message.bytes": "10000"})
    producer = producer_for(bootstrap)
    too_large_error = lambda e: isinstance(e, errors.MessageSizeTooLargeError)
    fails("a record above max.message.bytes", too_large_error, send_all, producer, topic, [b"x" * 20_000])
    producer.close()
    producer = producer_for(bootstrap)
    send_all(producer, topic, [b"small"])
    producer.close()
    equal([m.value for m in read(bootstrap, topic, 1)], [b"small"], "what is stored")


def list_offsets(bootstrap, topic):
    create(bootstrap, topic)
    base = records.TIMESTAMP_BASE_MS
    producer = producer_for(bootstrap)
    for i in range(10):
        producer.send(topic, b"%d" % i, partition=0, timestamp_ms=base + 100 * i).get(WAIT_S)
    producer.close()
    at = TopicPartition(topic, 0)
    consumer = consumer_for(bootstrap)
    equal((consumer.beginning_offsets([at])[at], consumer.end_offsets([at])[at]), (0, 10), "earliest and latest")
    for asked, offset, found in [(-1, 0, 0), (400, 4, 400), (401, 5, 500), (900, 9, 900)]:
        got = consumer.offsets_for_times({at: base + asked})[at]
        equal((got.offset, got.timestamp), (offset, base + found), "the offset at %d" % asked)
    equal(consumer.offsets_for_times({at: base + 901})[at], None, "the offset after all times")
    consumer.close()
    newest = admin_for(bootstrap).list_partition_offsets({at: -3})[at]
    equal((newest.offset, newest.timestamp), (9, base + 900), "max timestamp")


def out_of_range(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    send_all(producer, topic, [b"only"])
    producer.close()
    at = TopicPartition(topic, 0)
    consumer = consumer_for(bootstrap, auto_offset_reset="none")
    consumer.assign([at])
    consumer.seek(at, 1000)
    past_the_end = lambda: eventually(WAIT_S, "an error", lambda: consumer.poll(500))
    fails("reading past the end", lambda e: isinstance(e, errors.OffsetOutOfRangeError), past_the_end)
    consumer.close()
    equal(read(bootstrap, topic, 1, offset=1000)[0].value, b"only", "what the reset to earliest reads")


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


def group_member(bootstrap, topic, group, **settings):
    base = {"group_id": group, "session_timeout_ms": 6000, "heartbeat_interval_ms": 300}
    return consumer_for(bootstrap, topic, **{**base, **settings})


def member(bootstrap, topic, group, assignor):
    consumer = group_member(bootstrap, topic, group, partition_assignment_strategy=[ASSIGNORS[assignor]])
    while True:
        consumer.poll(100)
        print(len(consumer.assignment()), flush=True)


def rebalance(bootstrap, topic, assignor):
    create(bootstrap, topic, partitions=6)
    group = topic + "-group"
    consumer = group_member(bootstrap, topic, group, partition_assignment_strategy=[ASSIGNORS[assignor]])
    seen = []

    def poll():
        for messages in consumer.poll(100).values():
            seen.extend((m.partition, m.value) for m in messages)

    def owns(count, other=None):
        poll()
        return len(consumer.assignment()) == count and (other is None or other.owned == 6 - count)

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
        send_all(producer, topic, [b"after"], p)
    producer.close()
    eventually(WAIT_S, lambda: "seen %s" % seen, lambda: poll() or len(seen) >= 6)
    equal(sorted(seen), [(p, b"after") for p in range(6)], "records after the rebalance")
    consumer.close()


def static_member(bootstrap, topic):
    create(bootstrap, topic, partitions=4)
    group = topic + "-group"
    stays, leaves = PollingMember(bootstrap, topic, group, "one"), PollingMember(bootstrap, topic, group, "two")
    each_has_two = lambda *members: all(len(m.consumer.assignment()) == 2 for m in members)
    eventually(WAIT_S, "two partitions each", lambda: each_has_two(stays, leaves))
    generation, owned = stays.consumer.group_metadata().generation_id, leaves.consumer.assignment()
    leaves.close()
    returned = PollingMember(bootstrap, topic, group, "two")
    eventually(WAIT_S, "the member is back", lambda: each_has_two(stays, returned))
    equal(returned.consumer.assignment(), owned, "the partitions of the member that came back")
    time.sleep(1)
    equal(stays.consumer.group_metadata().generation_id, generation, "the generation of the member that stayed")
    stays.close()
    returned.close()


class PollingMember:
    """A static member that polls in its own thread: this client joins within its polls, and two must join at once."""

    def __init__(self, bootstrap, topic, group, instance):
        self.consumer = group_member(bootstrap, topic, group, group_instance_id=instance, session_timeout_ms=30000)
        self.closing = False
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.thread.start()

    def _poll(self):
        while not self.closing:
            self.consumer.poll(100)

    def close(self):
        self.closing = True
        self.thread.join()
        self.consumer.close()


def commit_and_seek(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    send_all(producer, topic, [b"%d" % i for i in range(20)])
    producer.close()
    group, at = topic + "-group", TopicPartition(topic, 0)
    consumer = group_member(bootstrap, topic, group, max_poll_records=1)

    epochs = []

    def next_value():
        message = eventually(WAIT_S, "a record", lambda: consumer.poll(500))[at][0]
        epochs.append(message.leader_epoch)
        return message.value

    equal([next_value() for _ in range(7)], [b"%d" % i for i in range(7)], "the first records")
    consumer.commit({at: OffsetAndMetadata(7, "seven, ünïcode", epochs[-1])})
    stored = consumer.committed(at, metadata=True)
    equal((stored.offset, stored.metadata, stored.leader_epoch), (7, "seven, ünïcode", epochs[-1]), "the commit read back")
    consumer.seek(at, 15)
    equal(next_value(), b"15", "the record after a seek forward")
    consumer.seek(at, 2)
    equal(next_value(), b"2", "the record after a seek back")
    consumer.close()
    consumer = group_member(bootstrap, topic, group, max_poll_records=1)
    equal(next_value(), b"7", "the first record after a rejoin")
    consumer.close()


def idempotent_through_cuts(bootstrap, topic, relay):
    create(bootstrap, topic, partitions=3)
    # On Kafka a new topic may refuse the first batch of a producer and accept its second, whose sequence number it then
    # takes for the first: the retry can never succeed. So every partition must answer before the first batch.
    consumer = consumer_for(bootstrap)
    consumer.end_offsets([TopicPartition(topic, p) for p in range(3)])
    consumer.close()
    producer = producer_for(
        relay, enable_idempotence=True, linger_ms=0, retry_backoff_ms=20, reconnect_backoff_ms=20, reconnect_backoff_max_ms=50
    )
    futures = []
    for i in range(600):
        futures.append(producer.send(topic, b"%06d" % i, partition=i % 3))
        if i % 10 == 9:
            time.sleep(0.01)
        # So often that responses are lost however few batches a slow machine makes of the records.
        if i % 20 == 19:
            producer.flush(WAIT_S)
    producer.flush(2 * WAIT_S)
    offsets = [future.get(WAIT_S).offset for future in futures]
    for p in range(3):
        want = list(range(p, 600, 3))
        got = read(bootstrap, topic, len(want), partition=p)
        equal([m.value for m in got], [b"%06d" % i for i in want], "values of partition %d" % p)
        equal([m.offset for m in got], [offsets[i] for i in want], "offsets acknowledged in partition %d" % p)
    producer.close()


def known_topics(bootstrap):
    return {t["name"]: t for t in admin_for(bootstrap).describe_topics()}


def topics(bootstrap, prefix):
    admin = admin_for(bootstrap)
    a, b = prefix + "-a", prefix + "-b"
    created = {t["name"]: t for t in admin.create_topics({a: {"num_partitions": 3, "configs": {"retention.ms": "12345"}}, b: {}})["topics"]}
    equal(created[a]["configs"]["retention.ms"]["value"], "12345", "retention.ms in the answer")
    known = known_topics(bootstrap)
    equal(len(known[a]["partitions"]), 3, "partitions")
    equal(known[a]["topic_id"], created[a]["topic_id"], "the topic id")
    copies = [(len(p["replica_nodes"]), len(p["isr_nodes"])) for p in known[a]["partitions"]]
    equal(copies, [(REPLICAS, REPLICAS)] * 3, "replicas, and replicas in sync")
    error = lambda kind: lambda e: isinstance(e, kind)
    fails("creating it twice", error(errors.TopicAlreadyExistsError), admin.create_topics, {a: {}})
    fails("a bad name", error(errors.InvalidTopicError), admin.create_topics, {"bad name!": {}})
    fails("no partitions", error(errors.InvalidPartitionsError), admin.create_topics, {prefix + "-c": {"num_partitions": 0}})
    fails("an unknown setting", error(errors.InvalidConfigurationError), admin.create_topics, {prefix + "-c": {"configs": {"no.such": "1"}}})
    admin.create_topics({prefix + "-v": {}}, validate_only=True)
    holds(prefix + "-v" not in known_topics(bootstrap), "validate_only creates nothing")
    admin.delete_topics([a])
    eventually(WAIT_S, "the topic is gone", lambda: a not in known_topics(bootstrap))
    fails("deleting it twice", error(errors.UnknownTopicOrPartitionError), admin.delete_topics, [a])


def partitions(bootstrap, topic):
    create(bootstrap, topic, partitions=2)
    admin = admin_for(bootstrap)
    admin.create_partitions({topic: 5})
    eventually(WAIT_S, "five partitions", lambda: len(known_topics(bootstrap)[topic]["partitions"]) == 5)
    fails("fewer partitions", lambda e: isinstance(e, errors.InvalidPartitionsError), admin.create_partitions, {topic: 3})
    producer = producer_for(bootstrap)
    send_all(producer, topic, [b"last"], 4)
    producer.close()
    equal(read(bootstrap, topic, 1, partition=4)[0].value, b"last", "the record of the new partition")


def configs(bootstrap, topic):
    create(bootstrap, topic)
    admin = admin_for(bootstrap)
    resource = lambda settings=None: ConfigResource(ConfigResourceType.TOPIC, topic, settings)
    described = lambda: admin.describe_configs([resource()], config_filter="all")["topic"][topic]
    alter = lambda settings, **how: admin.alter_configs([resource(settings)], **how)["topic"][topic]
    equal(described()["retention.ms"]["value"], "-1", "retention.ms")
    equal(described()["retention.ms"]["config_source"], "DYNAMIC_TOPIC_CONFIG", "the source of retention.ms")
    equal(alter({"retention.ms": "777000", "cleanup.policy": ("APPEND", "compact")}), "OK", "the alter")
    eventually(WAIT_S, "retention.ms is set", lambda: described()["retention.ms"]["value"] == "777000")
    equal(sorted(described()["cleanup.policy"]["value"].split(",")), ["compact", "delete"], "cleanup.policy after append")
    equal(admin.reset_configs([resource({"retention.ms": None})])["topic"][topic], "OK", "the reset")
    eventually(WAIT_S, "retention.ms is a default", lambda: described()["retention.ms"]["config_source"] == "DEFAULT_CONFIG")
    holds("InvalidConfiguration" in alter({"retention.ms": "soon"}), "a bad value is refused")
    equal(alter({"retention.ms": "888000"}, incremental=False), "OK", "the legacy alter")
    eventually(WAIT_S, "retention.ms is set", lambda: described()["retention.ms"]["value"] == "888000")


def delete_records(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    send_all(producer, topic, [b"%d" % i for i in range(10)])
    producer.close()
    admin, at = admin_for(bootstrap), TopicPartition(topic, 0)
    equal(admin.delete_records({at: 4})[at]["low_watermark"], 4, "the low watermark")
    equal([m.offset for m in read(bootstrap, topic, 6)], list(range(4, 10)), "the offsets that are left")
    fails("deleting past the end", lambda e: isinstance(e, errors.OffsetOutOfRangeError), admin.delete_records, {at: 11})
    equal(admin.delete_records({at: -1})[at]["low_watermark"], 10, "the low watermark after all")


def groups(bootstrap, topic):
    create(bootstrap, topic, partitions=2)
    admin, group = admin_for(bootstrap), topic + "-group"
    zero, one = TopicPartition(topic, 0), TopicPartition(topic, 1)
    consumer = group_member(bootstrap, topic, group, client_id="a-member", partition_assignment_strategy=[RangePartitionAssignor])
    eventually(WAIT_S, "an assignment", lambda: consumer.poll(100) or len(consumer.assignment()) == 2)
    consumer.commit({zero: OffsetAndMetadata(0, "", -1), one: OffsetAndMetadata(0, "m", -1)})
    state = lambda: {g["group_id"]: g["group_state"] for g in admin.list_groups()}.get(group)
    equal(state(), "Stable", "the listed state")
    described = admin.describe_groups([group])[group]
    equal((described["group_state"], described["protocol_data"]), ("Stable", "range"), "the group")
    equal([m["client_id"] for m in described["members"]], ["a-member"], "its members")
    assigned = described["members"][0]["member_assignment"]["assigned_partitions"]
    equal(assigned, [{"topic": topic, "partitions": [0, 1]}], "its assignment")
    equal(admin.delete_groups([group])[group], "NonEmptyGroupError", "deleting a group in use")
    consumer.close()
    eventually(WAIT_S, "the group is empty", lambda: state() == "Empty")
    admin.alter_group_offsets(group, {zero: OffsetAndMetadata(5, "z", -1)})
    admin.delete_group_offsets(group, [one])
    left = {at: (o.offset, o.metadata) for at, o in admin.list_group_offsets(group)[group].items()}
    equal(left, {zero: (5, "z")}, "the offsets that are left")
    equal(admin.delete_groups([group])[group], "OK", "deleting the group")
    equal(state(), None, "the state of a deleted group")
    equal(admin.delete_groups([group])[group], "GroupIdNotFoundError", "deleting it twice")


def cluster(bootstrap, _):
    described = admin_for(bootstrap).describe_cluster()
    holds(described["cluster_id"], "the cluster has an id")
    addresses = ["%s:%d" % (b["host"], b["port"]) for b in described["brokers"]]
    holds(bootstrap in addresses, "%s is one of %s" % (bootstrap, addresses))
    holds(described["controller_id"] in [b["broker_id"] for b in described["brokers"]], "the controller is a broker")


def log_dirs(bootstrap, topic):
    create(bootstrap, topic)
    producer = producer_for(bootstrap)
    send_all(producer, topic, [records.noise(1, 100_000)])
    producer.close()
    sizes = [
        p["partition_size"]
        for broker in admin_for(bootstrap).describe_log_dirs([topic])
        for directory in broker["log_dirs"]
        for t in directory["topics"]
        if t["name"] == topic
        for p in t["partitions"]
    ]
    holds(sum(sizes) >= 100_000, "the size (%s) holds what was written" % sizes)


def auto_create(bootstrap, topic):
    producer = producer_for(bootstrap)
    producer.send(topic, b"first").get(WAIT_S)
    producer.close()
    equal(read(bootstrap, topic, 1)[0].value, b"first", "the record of the new topic")


def unknown_topic(bootstrap, topic):
    consumer = consumer_for(bootstrap, allow_auto_create_topics=False)
    holds(not consumer.partitions_for_topic(topic), "an unknown topic has no partitions")
    consumer.close()
    holds(topic not in known_topics(bootstrap), "a look does not create a topic")
    create(bootstrap, topic)
    producer = producer_for(bootstrap, max_block_ms=1500)
    refused = lambda e: isinstance(e, (AssertionError, ValueError, errors.KafkaError))
    fails("producing to an unknown partition", refused, send_all, producer, topic, [b"x"], 7)
    producer.close()


def check(bootstrap, prefix, relay):
    checks = Checks()
    # Made before there are threads: two would race, and the loser's client is collected with its calls.
    admin_for(bootstrap)
    run = lambda name, function, *more: checks.run(name, function, bootstrap, "%s-%s" % (prefix, name), *more)
    # The groups wait for sessions to expire: side by side.
    waiting = [threading.Thread(target=run, args=("rebalance-" + a, rebalance, a)) for a in ASSIGNORS]
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
    run("admin-log-dirs", log_dirs)
    run("auto-create", auto_create)
    run("unknown-topic", unknown_topic)
    for thread in waiting:
        thread.join()
    return checks.failed


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
    else:
        sys.exit("unknown verb %r" % verb)


if __name__ == "__main__":
    main()
