package meridian.compat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/** The records that every client program writes, each in its own language: see ../python/records.py. */
final class Records {
    static final int COUNT = 24;
    static final int VALUE_BYTES_MAX = 1 << 20;
    static final int MESSAGE_BYTES_MAX = 2 << 20;
    static final long TIMESTAMP_BASE_MS = 1_700_000_000_000L;
    static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");

    private Records() {}

    static byte[] key(int i) {
        return switch (i % 7) {
            case 3 -> null;
            case 5 -> new byte[0];
            default -> bytes("key-" + i);
        };
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** xorshift32 words, little endian: does not compress. */
    static byte[] noise(int seed, int size) {
        byte[] out = new byte[size];
        int x = seed;
        for (int at = 0; at < size; at++) {
            if (at % 4 == 0) {
                x ^= x << 13;
                x ^= x >>> 17;
                x ^= x << 5;
            }
            out[at] = (byte) (x >>> (8 * (at % 4)));
        }
        return out;
    }

    static byte[] value(int i) {
        if (i == 21) {
            return noise(22, VALUE_BYTES_MAX);
        }
        if (i % 5 == 4) {
            return null;
        }
        if (i % 11 == 10) {
            return new byte[0];
        }
        int size = 10 + 97 * i;
        if (i % 2 == 0) {
            String text = "meridian-" + i + " ";
            return Arrays.copyOf(bytes(text.repeat(size / text.length() + 1)), size);
        }
        return noise(i + 1, size);
    }

    static List<Header> headers(int i) {
        return switch (i % 4) {
            case 1 -> List.of(header("a", bytes("1")), header("a", bytes("2")));
            case 2 -> List.of(header("null-value", null), header("empty", new byte[0]));
            case 3 -> List.of(
                    header("bin", new byte[] {(byte) 0xff, (byte) 0xfe, (byte) 0x80}),
                    header("a", bytes("x")),
                    header("b", bytes("y")),
                    header("a", bytes("z")));
            default -> List.of();
        };
    }

    private static Header header(String key, byte[] value) {
        return new RecordHeader(key, value);
    }

    static long timestampMs(int i) {
        return TIMESTAMP_BASE_MS + 1000L * i - (i % 3 == 0 ? 5000 : 0);
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int i) {
        return new ProducerRecord<>(topic, 0, timestampMs(i), key(i), value(i), headers(i));
    }

    /** `null`, or length and CRC-32. */
    static String digest(byte[] data) {
        if (data == null) {
            return "null";
        }
        CRC32 crc = new CRC32();
        crc.update(data);
        return data.length + ":" + String.format("%08x", crc.getValue());
    }

    /** How every program prints a record it read; two programs agree when their lines do. */
    static String line(String topic, long offset, long timestamp, byte[] key, byte[] value, Iterable<Header> headers) {
        List<String> shown = new ArrayList<>();
        for (Header header : headers) {
            shown.add(header.key() + "=" + digest(header.value()));
        }
        String all = shown.isEmpty() ? "-" : String.join(",", shown);
        return "record " + topic + " " + offset + " " + timestamp + " " + digest(key) + " " + digest(value) + " " + all;
    }

    static String line(ConsumerRecord<byte[], byte[]> r) {
        return line(r.topic(), r.offset(), r.timestamp(), r.key(), r.value(), r.headers());
    }

    static List<String> expected(String topic) {
        List<String> lines = new ArrayList<>();
        for (int i = 0; i < COUNT; i++) {
            lines.add(line(topic, i, timestampMs(i), key(i), value(i), headers(i)));
        }
        return lines;
    }
}
