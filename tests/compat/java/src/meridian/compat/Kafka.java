package meridian.compat;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Clients as the checks want them. */
final class Kafka {
    final String bootstrap;
    final Admin admin;

    Kafka(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", "60000"));
    }

    static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(Checks.WAIT_MS, TimeUnit.MILLISECONDS);
    }

    private static Properties with(Map<String, ?> base, Map<String, ?> settings) {
        Properties all = new Properties();
        base.forEach((k, v) -> all.setProperty(k, v.toString()));
        settings.forEach((k, v) -> all.setProperty(k, v.toString()));
        return all;
    }

    KafkaProducer<byte[], byte[]> producer(Map<String, ?> settings) {
        Map<String, Object> base = new HashMap<>();
        base.put("bootstrap.servers", bootstrap);
        base.put("max.request.size", Records.MESSAGE_BYTES_MAX);
        base.put("linger.ms", 5);
        base.put("delivery.timeout.ms", 40_000);
        return new KafkaProducer<>(with(base, settings), new ByteArraySerializer(), new ByteArraySerializer());
    }

    KafkaConsumer<byte[], byte[]> consumer(Map<String, ?> settings) {
        Map<String, Object> base = new HashMap<>();
        base.put("bootstrap.servers", bootstrap);
        base.put("auto.offset.reset", "earliest");
        base.put("enable.auto.commit", false);
        base.put("fetch.max.wait.ms", 200);
        base.put("metadata.max.age.ms", 2000);
        return new KafkaConsumer<>(with(base, settings), new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    void create(String topic, int partitions, Map<String, String> configs) throws Exception {
        Map<String, String> all = new HashMap<>();
        all.put("max.message.bytes", String.valueOf(Records.MESSAGE_BYTES_MAX));
        all.put("retention.ms", "-1");
        all.putAll(configs);
        get(admin.createTopics(List.of(new NewTopic(topic, partitions, Checks.REPLICAS).configs(all))).all());
    }

    void send(KafkaProducer<byte[], byte[]> producer, String topic, int partition, String value) throws Exception {
        producer.send(new ProducerRecord<>(topic, partition, null, Records.bytes(value))).get(Checks.WAIT_MS, TimeUnit.MILLISECONDS);
    }

    void writeRecords(String topic, String codec) throws Exception {
        try (var producer = producer(Map.of("compression.type", codec, "batch.size", 1 << 16))) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < Records.COUNT; i++) {
                sent.add(producer.send(Records.record(topic, i)));
            }
            producer.flush();
            for (int i = 0; i < Records.COUNT; i++) {
                RecordMetadata acknowledged = sent.get(i).get(Checks.WAIT_MS, TimeUnit.MILLISECONDS);
                Checks.equal(acknowledged.offset(), (long) i, "the acknowledged offset");
                Checks.equal(acknowledged.timestamp(), Records.timestampMs(i), "the acknowledged timestamp");
            }
        }
    }

    List<ConsumerRecord<byte[], byte[]>> read(String topic, int partition, long from, int count) {
        TopicPartition at = new TopicPartition(topic, partition);
        try (var consumer = consumer(Map.of())) {
            consumer.assign(List.of(at));
            consumer.seek(at, from);
            List<ConsumerRecord<byte[], byte[]>> got = new ArrayList<>();
            long deadline = System.currentTimeMillis() + Checks.WAIT_MS;
            while (got.size() < count) {
                Checks.holds(System.currentTimeMillis() < deadline, "only " + got.size() + " of " + count + " records of " + at + " arrived");
                consumer.poll(Duration.ofMillis(200)).forEach(got::add);
            }
            return got;
        }
    }

    static List<String> lines(List<ConsumerRecord<byte[], byte[]>> records) {
        return records.stream().map(Records::line).toList();
    }

    static List<String> values(List<ConsumerRecord<byte[], byte[]>> records) {
        return records.stream().map(r -> new String(r.value())).toList();
    }
}
