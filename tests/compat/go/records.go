package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The records that every client program writes, each in its own language: see ../python/records.py.
const (
	recordCount     = 24
	valueBytesMax   = 1 << 20
	messageBytesMax = 2 << 20
	timestampBaseMs = 1_700_000_000_000
)

var codecs = []struct {
	name  string
	codec kgo.CompressionCodec
}{
	{"none", kgo.NoCompression()},
	{"gzip", kgo.GzipCompression()},
	{"snappy", kgo.SnappyCompression()},
	{"lz4", kgo.Lz4Compression()},
	{"zstd", kgo.ZstdCompression()},
}

func recordKey(i int) []byte {
	switch i % 7 {
	case 3:
		return nil
	case 5:
		return []byte{}
	}
	return []byte(fmt.Sprintf("key-%d", i))
}

// noise is xorshift32 words, little endian: it does not compress.
func noise(seed uint32, size int) []byte {
	out := make([]byte, 0, size+4)
	x := seed
	for len(out) < size {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		out = binary.LittleEndian.AppendUint32(out, x)
	}
	return out[:size]
}

func recordValue(i int) []byte {
	switch {
	case i == 21:
		return noise(22, valueBytesMax)
	case i%5 == 4:
		return nil
	case i%11 == 10:
		return []byte{}
	}
	size := 10 + 97*i
	if i%2 == 0 {
		text := fmt.Sprintf("meridian-%d ", i)
		return []byte(strings.Repeat(text, size/len(text)+1))[:size]
	}
	return noise(uint32(i+1), size)
}

func recordHeaders(i int) []kgo.RecordHeader {
	header := func(key, value string) kgo.RecordHeader {
		return kgo.RecordHeader{Key: key, Value: []byte(value)}
	}
	switch i % 4 {
	case 1:
		return []kgo.RecordHeader{header("a", "1"), header("a", "2")}
	case 2:
		return []kgo.RecordHeader{{Key: "null-value"}, header("empty", "")}
	case 3:
		return []kgo.RecordHeader{header("bin", "\xff\xfe\x80"), header("a", "x"), header("b", "y"), header("a", "z")}
	}
	return nil
}

func recordTimestamp(i int) time.Time {
	ms := int64(timestampBaseMs + 1000*i)
	if i%3 == 0 {
		ms -= 5000
	}
	return time.UnixMilli(ms)
}

func record(topic string, i int) *kgo.Record {
	return &kgo.Record{
		Topic:     topic,
		Key:       recordKey(i),
		Value:     recordValue(i),
		Headers:   recordHeaders(i),
		Timestamp: recordTimestamp(i),
	}
}

// digest is `null`, or length and CRC-32.
func digest(data []byte) string {
	if data == nil {
		return "null"
	}
	return fmt.Sprintf("%d:%08x", len(data), crc32.ChecksumIEEE(data))
}

// line is how every program prints a record it read; two programs agree when their lines do.
func line(r *kgo.Record) string {
	shown := []string{}
	for _, h := range r.Headers {
		shown = append(shown, h.Key+"="+digest(h.Value))
	}
	headers := strings.Join(shown, ",")
	if headers == "" {
		headers = "-"
	}
	return fmt.Sprintf("record %s %d %d %s %s %s",
		r.Topic, r.Offset, r.Timestamp.UnixMilli(), digest(r.Key), digest(r.Value), headers)
}

func expectedLines(topic string) []string {
	lines := []string{}
	for i := 0; i < recordCount; i++ {
		r := record(topic, i)
		r.Offset = int64(i)
		lines = append(lines, line(r))
	}
	return lines
}
