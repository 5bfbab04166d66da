"""The records that every client program writes, each in its own language, and the line it prints for what it reads.

The same 24 records in every program: null and empty keys, tombstones, empty values, a header key twice, null, empty and
binary header values, timestamps that go back, one value of 1 MiB.
"""

import struct
import zlib

COUNT = 24
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
VALUE_BYTES_MAX = 1 << 20
# Clients and topics are told to take this: the largest record and its batch fit.
MESSAGE_BYTES_MAX = 2 << 20
TIMESTAMP_BASE_MS = 1_700_000_000_000


def key(i):
    if i % 7 == 3:
        return None
    if i % 7 == 5:
        return b""
    return b"key-%d" % i


def noise(seed, size):
    """xorshift32 words, little endian: does not compress."""
    words = []
    x = seed
    for _ in range((size + 3) // 4):
        x ^= (x << 13) & 0xFFFFFFFF
        x ^= x >> 17
        x ^= (x << 5) & 0xFFFFFFFF
        words.append(x)
    return struct.pack("<%dI" % len(words), *words)[:size]


_large = noise(22, VALUE_BYTES_MAX)


def value(i):
    if i == 21:
        return _large
    if i % 5 == 4:
        return None
    if i % 11 == 10:
        return b""
    size = 10 + 97 * i
    if i % 2 == 0:
        text = b"meridian-%d " % i
        return (text * (size // len(text) + 1))[:size]
    return noise(i + 1, size)


def headers(i, nulls=True):
    """`nulls=False`: for a client that cannot write a null header value."""
    all_headers = [
        [],
        [("a", b"1"), ("a", b"2")],
        [("null-value", None), ("empty", b"")],
        [("bin", b"\xff\xfe\x80"), ("a", b"x"), ("b", b"y"), ("a", b"z")],
    ][i % 4]
    return [(name, data) for name, data in all_headers if nulls or data is not None]


def timestamp_ms(i):
    return TIMESTAMP_BASE_MS + 1000 * i - (5000 if i % 3 == 0 else 0)


def digest(data):
    """`null`, or length and CRC-32."""
    return "null" if data is None else "%d:%08x" % (len(data), zlib.crc32(data))


def line(topic, offset, timestamp, key_, value_, headers_):
    """How every program prints a record it read; two programs agree when their lines do."""
    shown = ",".join("%s=%s" % (name, digest(data)) for name, data in headers_ or []) or "-"
    return "record %s %d %d %s %s %s" % (topic, offset, timestamp, digest(key_), digest(value_), shown)


def expected(topic, nulls=True):
    return [line(topic, i, timestamp_ms(i), key(i), value(i), headers(i, nulls)) for i in range(COUNT)]
