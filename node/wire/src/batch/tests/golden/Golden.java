import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;

/** Writes the batches of this folder, with Kafka's own code. Run with kafka-clients 4.3.0 on the class path. */
public class Golden {
    static byte[] utf8(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    static byte[] big() {
        byte[] value = new byte[70_000];
        for (int i = 0; i < value.length; i++) value[i] = (byte) (i / 100);
        return value;
    }

    static void write(String name, Compression compression, TimestampType type, boolean transactional, boolean big) throws Exception {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(1 << 20), RecordBatch.MAGIC_VALUE_V2,
            compression, type, 0L, 1_700_000_000_999L, transactional ? 4242L : -1L, (short) (transactional ? 7 : -1),
            transactional ? Integer.MAX_VALUE : -1, transactional, -1);
        builder.append(1_700_000_000_000L, utf8("a"), utf8("one"), new Header[0]);
        builder.append(1_700_000_000_005L, null, utf8("two"),
            new Header[] {new RecordHeader("h", utf8("1")), new RecordHeader("h", utf8("2")), new RecordHeader("n", (byte[]) null)});
        builder.append(1_699_999_999_995L, utf8("c"), null, new Header[0]);
        if (big) builder.append(1_700_000_000_000L, utf8("big"), big(), new Header[0]);
        save(name, builder.build());
    }

    static void save(String name, MemoryRecords records) throws Exception {
        ByteBuffer buffer = records.buffer();
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        Files.write(Path.of(name + ".bin"), bytes);
    }

    public static void main(String[] args) throws Exception {
        write("none", Compression.NONE, TimestampType.CREATE_TIME, false, false);
        write("gzip", Compression.gzip().build(), TimestampType.CREATE_TIME, false, true);
        write("snappy", Compression.snappy().build(), TimestampType.CREATE_TIME, false, true);
        write("lz4", Compression.lz4().build(), TimestampType.CREATE_TIME, false, true);
        write("zstd", Compression.zstd().build(), TimestampType.CREATE_TIME, false, true);
        write("zstd-22", Compression.zstd().level(22).build(), TimestampType.CREATE_TIME, false, true);
        write("log-append-time", Compression.NONE, TimestampType.LOG_APPEND_TIME, false, false);
        write("transactional", Compression.NONE, TimestampType.CREATE_TIME, true, false);
        save("commit-marker", MemoryRecords.withEndTransactionMarker(99L, 1_700_000_000_000L, 3, 4242L, (short) 7,
            new EndTransactionMarker(ControlRecordType.COMMIT, 11)));
    }
}
