/*
 * Produces 1 KiB records through librdkafka as fast as it goes, for a given time, and prints one line of JSON.
 * Usage: produce BOOTSTRAP TOPIC WARM_SECONDS SECONDS RECORD_BYTES [PROPERTY=VALUE..]
 *
 * Linked with the librdkafka inside the confluent-kafka wheel, which is newer than Debian's and needs no root.
 * A wheel has no header, so the declarations of librdkafka's stable ABI that are used here stand below.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_topic_conf_s rd_kafka_topic_conf_t;
typedef struct {
        int err;
        rd_kafka_topic_t *rkt;
        int32_t partition;
        void *payload;
        size_t len;
        void *key;
        size_t key_len;
        int64_t offset;
        void *private_;
} rd_kafka_message_t;

enum { PRODUCER = 0, CONF_OK = 0, QUEUE_FULL = -184, PARTITION_ANY = -1 };

rd_kafka_conf_t *rd_kafka_conf_new(void);
int rd_kafka_conf_set(rd_kafka_conf_t *, const char *name, const char *value, char *error, size_t error_bytes);
void rd_kafka_conf_set_dr_msg_cb(rd_kafka_conf_t *, void (*)(rd_kafka_t *, const rd_kafka_message_t *, void *));
rd_kafka_t *rd_kafka_new(int type, rd_kafka_conf_t *, char *error, size_t error_bytes);
rd_kafka_topic_t *rd_kafka_topic_new(rd_kafka_t *, const char *topic, rd_kafka_topic_conf_t *);
int rd_kafka_produce(rd_kafka_topic_t *, int32_t partition, int flags, void *payload, size_t len, const void *key,
                     size_t key_len, void *opaque);
int rd_kafka_last_error(void);
int rd_kafka_poll(rd_kafka_t *, int timeout_ms);
int rd_kafka_flush(rd_kafka_t *, int timeout_ms);
int64_t rd_kafka_message_latency(const rd_kafka_message_t *);
const char *rd_kafka_err2str(int);
const char *rd_kafka_version_str(void);

/* Latencies in microseconds: 64 buckets per power of two, so a percentile is right within 1.6 %. */
#define STEPS 64
static uint64_t buckets[40 * STEPS];
static uint64_t acknowledged, failed, bytes, window_bytes, in_window;
static int first_error;
static double window_start, window_end;

static double now_s(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec + t.tv_nsec / 1e9;
}

static size_t bucket_of(uint64_t us) {
        int power = 0;
        while ((us >> power) >= 2 * STEPS)
                power++;
        size_t bucket = (size_t)power * STEPS + (us >> power);
        return bucket < 40 * STEPS ? bucket : 40 * STEPS - 1;
}

static double bucket_ms(size_t bucket) {
        size_t power = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;
        return (double)((bucket - power * STEPS) << power) / 1000.0;
}

static double percentile_ms(double share) {
        uint64_t wanted = (uint64_t)(share * (double)in_window), seen = 0;
        for (size_t i = 0; i < 40 * STEPS; i++) {
                seen += buckets[i];
                if (seen > wanted)
                        return bucket_ms(i);
        }
        return bucket_ms(40 * STEPS - 1);
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
        (void)rk, (void)opaque;
        if (message->err) {
                failed++;
                first_error = first_error ? first_error : message->err;
                return;
        }
        acknowledged++;
        bytes += message->len;
        double now = now_s();
        if (now >= window_start && now < window_end) {
                window_bytes += message->len;
                in_window++;
                buckets[bucket_of((uint64_t)rd_kafka_message_latency(message))]++;
        }
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
        char error[512];
        if (rd_kafka_conf_set(conf, name, value, error, sizeof error) != CONF_OK) {
                fprintf(stderr, "produce: %s=%s: %s\n", name, value, error);
                exit(2);
        }
}

int main(int argc, char **argv) {
        if (argc < 6) {
                fprintf(stderr, "usage: produce BOOTSTRAP TOPIC WARM_SECONDS SECONDS RECORD_BYTES [PROPERTY=VALUE..]\n");
                return 2;
        }
        double warm = atof(argv[3]), seconds = atof(argv[4]);
        size_t record_bytes = (size_t)atol(argv[5]);
        rd_kafka_conf_t *conf = rd_kafka_conf_new();
        set(conf, "bootstrap.servers", argv[1]);
        set(conf, "acks", "all");
        set(conf, "batch.size", "65536");
        set(conf, "linger.ms", "5");
        set(conf, "message.timeout.ms", "20000");
        /* What fails is counted; one line for every attempt to connect helps nobody. */
        set(conf, "log_level", "2");
        /* Its default of a million lets Kafka fall to a tenth of its speed. */
        set(conf, "max.in.flight.requests.per.connection", "5");
        for (int i = 6; i < argc; i++) {
                char *equals = strchr(argv[i], '=');
                if (!equals) {
                        fprintf(stderr, "produce: '%s': expected PROPERTY=VALUE\n", argv[i]);
                        return 2;
                }
                *equals = 0;
                set(conf, argv[i], equals + 1);
        }
        rd_kafka_conf_set_dr_msg_cb(conf, delivered);
        char error[512];
        rd_kafka_t *rk = rd_kafka_new(PRODUCER, conf, error, sizeof error);
        if (!rk) {
                fprintf(stderr, "produce: %s\n", error);
                return 1;
        }
        rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, argv[2], NULL);

        /* A few hundred different payloads: nothing on the way may profit from all being the same. */
        enum { PAYLOADS = 256 };
        unsigned char *payloads = malloc(PAYLOADS * record_bytes);
        uint64_t seed = 0x9e3779b97f4a7c15u;
        for (size_t i = 0; i < PAYLOADS * record_bytes; i++) {
                seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
                payloads[i] = (unsigned char)seed;
        }

        window_start = now_s() + warm;
        window_end = window_start + seconds;
        for (uint64_t n = 0;; n++) {
                if (n % 256 == 0) {
                        rd_kafka_poll(rk, 0);
                        if (now_s() >= window_end)
                                break;
                }
                /* No flag: the payload is neither copied nor freed. */
                while (now_s() < window_end + 20 &&
                       rd_kafka_produce(topic, PARTITION_ANY, 0, payloads + (n % PAYLOADS) * record_bytes, record_bytes,
                                        NULL, 0, NULL) != 0) {
                        if (rd_kafka_last_error() != QUEUE_FULL) {
                                fprintf(stderr, "produce: %s\n", rd_kafka_err2str(rd_kafka_last_error()));
                                return 1;
                        }
                        rd_kafka_poll(rk, 10);
                }
        }
        int flushed = rd_kafka_flush(rk, 60000);
        if (failed || flushed || !acknowledged) {
                fprintf(stderr, "produce: %llu acknowledged, %llu failed (%s), flush: %s\n",
                        (unsigned long long)acknowledged, (unsigned long long)failed, rd_kafka_err2str(first_error),
                        rd_kafka_err2str(flushed));
                return 1;
        }
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
                     + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        printf("{\"client\":\"librdkafka %s\",\"bytes\":%llu,\"window_bytes\":%llu,\"window_s\":%.3f,\"client_cpu_s\":%.3f,"
               "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f}\n",
               rd_kafka_version_str(), (unsigned long long)bytes, (unsigned long long)window_bytes, seconds, cpu,
               percentile_ms(0.50), percentile_ms(0.99), percentile_ms(0.999));
        return 0;
}
