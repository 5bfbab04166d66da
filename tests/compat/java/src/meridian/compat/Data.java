package meridian.compat;

import static meridian.compat.Checks.equal;
import static meridian.compat.Checks.eventually;
import static meridian.compat.Checks.fails;
import static meridian.compat.Checks.holds;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;

/** Checks of produce, fetch and offsets. */
record Data(Kafka kafka, String relay) {
    void all(Checks checks) {
        for (String codec : Records.CODECS) {
            checks.run("produce-consume-" + codec, topic -> produceConsume(topic, codec));
        }
        checks.run("acks", this::acks);
        checks.run("record-too-large", this::tooLarge);
        checks.run("list-offsets", this::listOffsets);
        checks.run("offset-out-of-range", this::outOfRange);
        checks.run("log-append-time", this::logAppendTime);
        checks.run("idempotent-through-cuts", this::idempotentThroughCuts);
        checks.run("auto-create", this::autoCreate);
        checks.run("unknown-topic", this::unknownTopic);
    }

    private void produceConsume(String topic, String codec) throws Exception {
        kafka.create(topic, 1, Map.of());
        kafka.writeRecords(topic, codec);
        equal(Kafka.lines(kafka.read(topic, 0, 0, Records.COUNT)), Records.expected(topic), "what was read");
        // From the middle of a batch: the broker gives the whole batch, the client drops the head.
        int middle = Records.COUNT - 5;
        equal(
                Kafka.lines(kafka.read(topic, 0, middle, 5)),
                Records.expected(topic).subList(middle, Records.COUNT),
                "what was read from the middle");
    }

    private void acks(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        for (String level : List.of("0", "1", "all")) {
            try (var producer = kafka.producer(Map.of("acks", level, "enable.idempotence", false))) {
                kafka.send(producer, topic, 0, "acks " + level);
            }
        }
        equal(Kafka.values(kafka.read(topic, 0, 0, 3)), List.of("acks 0", "acks 1", "acks all"), "values");
    }

    private void tooLarge(String topic) throws Exception {
        kafka.create(topic, 1, Map.of("max.message.bytes", "10000"));
        try (var producer = kafka.producer(Map.of())) {
            fails(RecordTooLargeException.class, "a record above max.message.bytes", () -> {
                kafka.send(producer, topic, 0, "x".repeat(20_000));
                return "success";
            });
            kafka.send(producer, topic, 0, "small");
        }
        equal(Kafka.values(kafka.read(topic, 0, 0, 1)), List.of("small"), "what is stored");
    }

    private void listOffsets(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        TopicPartition at = new TopicPartition(topic, 0);
        long base = Records.TIMESTAMP_BASE_MS;
        try (var producer = kafka.producer(Map.of())) {
            for (int i = 0; i < 10; i++) {
                producer.send(new ProducerRecord<>(topic, 0, base + 100L * i, null, Records.bytes("v" + i)));
                if (i % 3 == 0) {
                    producer.flush();
                }
            }
        }
        try (var consumer = kafka.consumer(Map.of())) {
            equal(consumer.beginningOffsets(List.of(at)).get(at), 0L, "earliest");
            equal(consumer.endOffsets(List.of(at)).get(at), 10L, "latest");
            for (long[] want : new long[][] {{-1, 0, 0}, {400, 4, 400}, {401, 5, 500}, {900, 9, 900}}) {
                var found = consumer.offsetsForTimes(Map.of(at, base + want[0])).get(at);
                equal(List.of(found.offset(), found.timestamp()), List.of(want[1], base + want[2]), "the offset at " + want[0]);
                holds(found.leaderEpoch().isPresent(), "the offset has a leader epoch");
            }
            equal(consumer.offsetsForTimes(Map.of(at, base + 901)).get(at), null, "the offset after all times");
        }
        try (var committed = kafka.consumer(Map.of("isolation.level", "read_committed"))) {
            equal(committed.endOffsets(List.of(at)).get(at), 10L, "latest, read committed");
        }
        var newest = Kafka.get(kafka.admin.listOffsets(Map.of(at, OffsetSpec.maxTimestamp())).partitionResult(at));
        equal(List.of(newest.offset(), newest.timestamp()), List.of(9L, base + 900), "max timestamp");
    }

    private void outOfRange(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        try (var producer = kafka.producer(Map.of())) {
            kafka.send(producer, topic, 0, "only");
        }
        TopicPartition at = new TopicPartition(topic, 0);
        try (var consumer = kafka.consumer(Map.of("auto.offset.reset", "none"))) {
            consumer.assign(List.of(at));
            consumer.seek(at, 1000);
            fails(OffsetOutOfRangeException.class, "reading past the end", () -> {
                eventually("an error", () -> !consumer.poll(Duration.ofMillis(200)).isEmpty());
                return "records";
            });
        }
        equal(Kafka.values(kafka.read(topic, 0, 1000, 1)), List.of("only"), "what the reset to earliest reads");
    }

    private void logAppendTime(String topic) throws Exception {
        kafka.create(topic, 1, Map.of("message.timestamp.type", "LogAppendTime"));
        long before = System.currentTimeMillis();
        long acknowledged;
        try (var producer = kafka.producer(Map.of("compression.type", "lz4"))) {
            acknowledged = producer.send(new ProducerRecord<>(topic, 0, 1000L, null, Records.bytes("x"))).get().timestamp();
        }
        var got = kafka.read(topic, 0, 0, 1).get(0);
        equal(got.timestampType().name, "LogAppendTime", "the timestamp type");
        equal(got.timestamp(), acknowledged, "the timestamp");
        holds(acknowledged >= before && acknowledged <= System.currentTimeMillis(), "the broker's clock gave it (" + acknowledged + ")");
    }

    private void idempotentThroughCuts(String topic) throws Exception {
        kafka.create(topic, 3, Map.of());
        // On Kafka a new topic may refuse the first batch of a producer and accept its second, whose sequence number it
        // then takes for the first: the retry can never succeed. So every partition must answer before the first batch.
        try (var consumer = kafka.consumer(Map.of())) {
            consumer.endOffsets(List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1), new TopicPartition(topic, 2)));
        }
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        Map<String, ?> settings = Map.of(
                "bootstrap.servers", relay, "enable.idempotence", true, "linger.ms", 0,
                "retry.backoff.ms", 20, "retry.backoff.max.ms", 50, "reconnect.backoff.ms", 20, "reconnect.backoff.max.ms", 50);
        try (var producer = kafka.producer(settings)) {
            for (int i = 0; i < 600; i++) {
                sent.add(producer.send(new ProducerRecord<>(topic, i % 3, null, Records.bytes(String.format("%06d", i)))));
                if (i % 10 == 9) {
                    Thread.sleep(10);
                }
                // So often that responses are lost however few batches a slow machine makes of the records.
                if (i % 20 == 19) {
                    producer.flush();
                }
            }
            producer.flush();
        }
        for (int p = 0; p < 3; p++) {
            var got = kafka.read(topic, p, 0, 200);
            equal(got.size(), 200, "records in partition " + p);
            for (int n = 0; n < 200; n++) {
                int i = 3 * n + p;
                equal(new String(got.get(n).value()), String.format("%06d", i), "value " + n + " of partition " + p);
                equal(got.get(n).offset(), sent.get(i).get().offset(), "the offset of record " + i);
            }
        }
    }

    private void autoCreate(String topic) throws Exception {
        try (var producer = kafka.producer(Map.of())) {
            producer.send(new ProducerRecord<>(topic, Records.bytes("first"))).get();
        }
        equal(Kafka.values(kafka.read(topic, 0, 0, 1)), List.of("first"), "the record of the new topic");
    }

    private void unknownTopic(String topic) throws Exception {
        try (var consumer = kafka.consumer(Map.of("allow.auto.create.topics", false, "default.api.timeout.ms", 1500))) {
            fails(TimeoutException.class, "the end of an unknown topic",
                    () -> consumer.endOffsets(List.of(new TopicPartition(topic, 0))));
            holds(!consumer.listTopics(Duration.ofSeconds(60)).containsKey(topic), "a look does not create a topic");
        }
        kafka.create(topic, 1, Map.of());
        try (var producer = kafka.producer(Map.of("max.block.ms", 1500))) {
            fails(TimeoutException.class, "producing to an unknown partition", () -> {
                kafka.send(producer, topic, 7, "x");
                return "success";
            });
        }
    }
}
