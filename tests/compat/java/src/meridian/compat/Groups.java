package meridian.compat;

import static meridian.compat.Checks.equal;
import static meridian.compat.Checks.eventually;
import static meridian.compat.Checks.fails;
import static meridian.compat.Checks.holds;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.FencedInstanceIdException;

/** Checks of consumer groups. */
record Groups(Kafka kafka) {
    static final Map<String, Class<?>> ASSIGNORS = new LinkedHashMap<>();

    static {
        ASSIGNORS.put("range", RangeAssignor.class);
        ASSIGNORS.put("roundrobin", RoundRobinAssignor.class);
        ASSIGNORS.put("sticky", StickyAssignor.class);
        ASSIGNORS.put("cooperative-sticky", CooperativeStickyAssignor.class);
    }

    void all(Checks checks) {
        checks.run("static-member", this::staticMember);
        checks.run("commit-and-seek", this::commitAndSeek);
        checks.run("commit-of-an-old-generation", this::commitOfAnOldGeneration);
    }

    private static final Duration POLL = Duration.ofMillis(50);

    private KafkaConsumer<byte[], byte[]> member(String group, Map<String, ?> settings) {
        Map<String, Object> all = new HashMap<>(Map.of("group.id", group, "session.timeout.ms", 6000, "heartbeat.interval.ms", 300));
        all.putAll(settings);
        return kafka.consumer(all);
    }

    void rebalance(String topic, String assignor) throws Exception {
        kafka.create(topic, 6, Map.of());
        String group = topic + "-group";
        var settings = Map.of("partition.assignment.strategy", ASSIGNORS.get(assignor).getName());
        List<String> seen = new ArrayList<>();
        try (var stays = member(group, settings)) {
            Checks.Check poll = __ -> stays.poll(POLL).forEach(r -> seen.add(r.partition() + " " + new String(r.value())));
            stays.subscribe(List.of(topic));
            eventually("six partitions", () -> {
                poll.run("");
                return stays.assignment().size() == 6;
            });
            var lost = member(group, settings);
            lost.subscribe(List.of(topic));
            eventually("three partitions each", () -> {
                poll.run("");
                lost.poll(POLL);
                Set<TopicPartition> together = new HashSet<>(stays.assignment());
                together.addAll(lost.assignment());
                return stays.assignment().size() == 3 && lost.assignment().size() == 3 && together.size() == 6;
            });
            // Without a word to the group: its session must expire.
            lost.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.REMAIN_IN_GROUP));
            eventually("six partitions again", () -> {
                poll.run("");
                return stays.assignment().size() == 6;
            });
            try (var producer = kafka.producer(Map.of())) {
                for (int p = 0; p < 6; p++) {
                    kafka.send(producer, topic, p, "after");
                }
            }
            eventually("a record from each partition", () -> {
                poll.run("");
                return seen.size() >= 6;
            });
        }
        seen.sort(null);
        equal(seen, List.of("0 after", "1 after", "2 after", "3 after", "4 after", "5 after"), "records after the rebalance");
    }

    private void staticMember(String topic) throws Exception {
        kafka.create(topic, 4, Map.of());
        String group = topic + "-group";
        int[] changes = {0};
        ConsumerRebalanceListener counting = new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                changes[0]++;
            }

            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                changes[0]++;
            }
        };
        Map<String, ?> one = Map.of("group.instance.id", "one", "session.timeout.ms", 30000);
        Map<String, ?> two = Map.of("group.instance.id", "two", "session.timeout.ms", 30000);
        var stays = member(group, one);
        var leaves = member(group, two);
        stays.subscribe(List.of(topic), counting);
        leaves.subscribe(List.of(topic));
        eventually("two partitions each", () -> {
            stays.poll(POLL);
            leaves.poll(POLL);
            return stays.assignment().size() == 2 && leaves.assignment().size() == 2;
        });
        int generation = stays.groupMetadata().generationId();
        int before = changes[0];
        Set<TopicPartition> owned = Set.copyOf(leaves.assignment());
        leaves.close();
        var returned = member(group, two);
        returned.subscribe(List.of(topic));
        eventually("the member is back", () -> {
            stays.poll(POLL);
            returned.poll(POLL);
            return returned.assignment().size() == 2;
        });
        for (int i = 0; i < 20; i++) {
            stays.poll(POLL);
        }
        equal(Set.copyOf(returned.assignment()), owned, "the partitions of the member that came back");
        equal(returned.groupMetadata().generationId(), generation, "its generation");
        equal(stays.groupMetadata().generationId(), generation, "the generation of the member that stayed");
        equal(changes[0], before, "rebalances of the member that stayed");
        // The same instance id twice: the older one is fenced.
        var usurper = member(group, two);
        usurper.subscribe(List.of(topic));
        eventually("the second instance has taken over", () -> {
            stays.poll(POLL);
            usurper.poll(POLL);
            return usurper.assignment().size() == 2;
        });
        fails(FencedInstanceIdException.class, "the older instance", () -> {
            for (int i = 0; i < 600; i++) {
                returned.poll(POLL);
            }
            return "no error";
        });
        // An administrator removes the members by their instance ids.
        var members = List.of("one", "two").stream()
                .map(org.apache.kafka.clients.admin.MemberToRemove::new).toList();
        var removal = new org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions(members);
        Kafka.get(kafka.admin.removeMembersFromConsumerGroup(group, removal).all());
        for (var consumer : List.of(stays, returned, usurper)) {
            consumer.close(CloseOptions.timeout(Duration.ZERO));
        }
    }

    private void commitAndSeek(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        TopicPartition at = new TopicPartition(topic, 0);
        try (var producer = kafka.producer(Map.of())) {
            for (int i = 0; i < 20; i++) {
                kafka.send(producer, topic, 0, "v" + i);
            }
        }
        String group = topic + "-group";
        try (var consumer = member(group, Map.of("max.poll.records", 1))) {
            consumer.subscribe(List.of(topic));
            java.util.Optional<Integer> epoch = java.util.Optional.empty();
            for (int i = 0; i < 7; i++) {
                var record = nextRecord(consumer);
                equal(new String(record.value()), "v" + i, "the record read");
                epoch = record.leaderEpoch();
            }
            // The epoch of the records read: a made-up one would send the rejoining consumer to a truncation.
            consumer.commitSync(Map.of(at, new OffsetAndMetadata(7, epoch, "seven, ünïcode")));
            var stored = consumer.committed(Set.of(at)).get(at);
            equal(List.of(stored.offset(), stored.metadata(), stored.leaderEpoch()), List.of(7L, "seven, ünïcode", epoch), "the commit read back");
            consumer.seek(at, 15);
            equal(next(consumer), "v15", "the record after a seek forward");
            consumer.seek(at, 2);
            equal(next(consumer), "v2", "the record after a seek back");
            consumer.seekToEnd(List.of(at));
            equal(consumer.position(at), 20L, "the position at the end");
        }
        try (var consumer = member(group, Map.of("max.poll.records", 1))) {
            consumer.subscribe(List.of(topic));
            equal(next(consumer), "v7", "the first record after a rejoin");
            consumer.commitAsync();
        }
        try (var consumer = member(group, Map.of())) {
            equal(consumer.committed(Set.of(at)).get(at).offset(), 8L, "the offset that close flushed");
        }
    }

    private static String next(KafkaConsumer<byte[], byte[]> consumer) throws Exception {
        return new String(nextRecord(consumer).value());
    }

    private static org.apache.kafka.clients.consumer.ConsumerRecord<byte[], byte[]> nextRecord(KafkaConsumer<byte[], byte[]> consumer) throws Exception {
        List<org.apache.kafka.clients.consumer.ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        eventually("a record", () -> {
            consumer.poll(Duration.ofMillis(200)).forEach(found::add);
            return !found.isEmpty();
        });
        return found.get(found.size() - 1);
    }

    private void commitOfAnOldGeneration(String topic) throws Exception {
        kafka.create(topic, 2, Map.of());
        String group = topic + "-group";
        TopicPartition at = new TopicPartition(topic, 0);
        var slow = member(group, Map.of("max.poll.interval.ms", 6000));
        slow.subscribe(List.of(topic));
        eventually("an assignment", () -> {
            slow.poll(POLL);
            return slow.assignment().size() == 2;
        });
        // It stops polling, so its heartbeat thread leaves the group; another member takes all.
        try (var other = member(group, Map.of())) {
            other.subscribe(List.of(topic));
            eventually("the other has all", () -> {
                other.poll(POLL);
                return other.assignment().size() == 2;
            });
            fails(CommitFailedException.class, "the commit of an old generation", () -> {
                slow.commitSync(Map.of(at, new OffsetAndMetadata(1)));
                return "success";
            });
            other.commitSync(Map.of(at, new OffsetAndMetadata(5)));
            equal(other.committed(Set.of(at)).get(at).offset(), 5L, "the offset of the new generation");
        }
        slow.close(CloseOptions.timeout(Duration.ZERO));
    }
}
