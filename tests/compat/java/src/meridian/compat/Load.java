package meridian.compat;

import java.io.BufferedWriter;
import java.io.IOException;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import sun.misc.Signal;

/** An idempotent producer and a consumer for the cluster tests; both write the lines of tests/checker/src/lines.rs. */
record Load(Kafka kafka) {
    /** Records that wait for their acknowledgement at most. */
    private static final int IN_FLIGHT_MAX = 2000;

    private static AtomicBoolean terminated() {
        AtomicBoolean stopping = new AtomicBoolean();
        Signal.handle(new Signal("TERM"), signal -> stopping.set(true));
        return stopping;
    }

    /** Sends `rate` records a second until SIGTERM, then waits for what is in flight. */
    void produce(String topic, int partitions, int producer, int rate, Path file) throws Exception {
        AtomicBoolean stopping = terminated();
        Map<String, Object> settings = new HashMap<>();
        settings.put("enable.idempotence", true);
        settings.put("acks", "all");
        settings.put("linger.ms", 2);
        settings.put("compression.type", "lz4");
        // Without a deadline: an idempotent producer retries until it knows.
        settings.put("delivery.timeout.ms", Integer.MAX_VALUE);
        settings.put("max.block.ms", Integer.MAX_VALUE);
        settings.put("request.timeout.ms", 10_000);
        settings.put("metadata.max.age.ms", 2000);
        settings.put("retry.backoff.ms", 20);
        settings.put("retry.backoff.max.ms", 200);
        settings.put("reconnect.backoff.ms", 20);
        settings.put("reconnect.backoff.max.ms", 200);
        AtomicReference<String> failure = new AtomicReference<>();
        Semaphore room = new Semaphore(IN_FLIGHT_MAX);
        long[] sequences = new long[partitions];
        try (Writer out = writer(file)) {
            try (var client = kafka.producer(settings)) {
                long started = System.nanoTime();
                long sent = 0;
                while (!stopping.get() && failure.get() == null) {
                    Thread.sleep(5);
                    long due = rate * TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - started) / 1000;
                    while (sent < due && !stopping.get() && room.tryAcquire()) {
                        int partition = (int) (sent % partitions);
                        long sequence = sequences[partition]++;
                        sent++;
                        String value = producer + " " + partition + " " + sequence;
                        client.send(new ProducerRecord<>(topic, partition, null, Records.bytes(value)), (metadata, error) -> {
                            room.release();
                            if (error != null) {
                                failure.compareAndSet(null, "record " + value + ": " + error);
                                return;
                            }
                            write(out, "{\"type\":\"ok\",\"producer\":" + producer + ",\"partition\":" + partition
                                    + ",\"sequence\":" + sequence + ",\"offset\":" + metadata.offset() + "}\n");
                        });
                    }
                    synchronized (out) {
                        out.flush();
                    }
                }
                Checks.holds(room.tryAcquire(IN_FLIGHT_MAX, 60, TimeUnit.SECONDS), "what is in flight is settled");
            }
            for (int partition = 0; partition < partitions; partition++) {
                write(out, "{\"type\":\"sent\",\"producer\":" + producer + ",\"partition\":" + partition
                        + ",\"count\":" + sequences[partition] + "}\n");
            }
        }
        Checks.equal(failure.get(), null, "the first failed record");
    }

    /** Writes a line for each record it reads, through every fault, until SIGTERM. */
    void follow(String topic, int partitions, Path file) throws Exception {
        AtomicBoolean stopping = terminated();
        Map<String, Object> settings = new HashMap<>();
        // A reader that has lost its place must say so, not begin again.
        settings.put("auto.offset.reset", "none");
        settings.put("request.timeout.ms", 10_000);
        settings.put("reconnect.backoff.ms", 20);
        settings.put("reconnect.backoff.max.ms", 200);
        String rack = System.getenv("MERIDIAN_TEST_RACK");
        settings.put("client.rack", rack == null ? "" : rack);
        List<TopicPartition> all = IntStream.range(0, partitions).mapToObj(p -> new TopicPartition(topic, p)).toList();
        try (Writer out = writer(file); var consumer = kafka.consumer(settings)) {
            consumer.assign(all);
            for (TopicPartition at : all) {
                consumer.seek(at, 0);
                write(out, "{\"type\":\"position\",\"partition\":" + at.partition() + ",\"offset\":0}\n");
            }
            while (!stopping.get()) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(100))) {
                    write(out, "{\"type\":\"read\",\"partition\":" + r.partition() + ",\"offset\":" + r.offset()
                            + ",\"value\":\"" + new String(r.value()) + "\"}\n");
                }
            }
        }
    }

    private static BufferedWriter writer(Path file) throws IOException {
        return Files.newBufferedWriter(file);
    }

    private static void write(Writer out, String line) {
        try {
            synchronized (out) {
                out.write(line);
            }
        } catch (IOException e) {
            throw new IllegalStateException("the history cannot be written", e);
        }
    }
}
