package meridian.compat;

import static meridian.compat.Checks.equal;
import static meridian.compat.Checks.eventually;
import static meridian.compat.Checks.fails;
import static meridian.compat.Checks.holds;
import static meridian.compat.Kafka.get;

import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Checks of the admin APIs. */
record AdminChecks(Kafka kafka) {
    void all(Checks checks) {
        checks.run("admin-topics", this::topics);
        checks.run("admin-partitions", this::partitions);
        checks.run("admin-configs", this::configs);
        checks.run("admin-delete-records", this::deleteRecords);
        checks.run("admin-groups", this::groups);
        checks.run("admin-cluster", __ -> cluster());
        checks.run("admin-log-dirs", this::logDirs);
        checks.run("admin-producers", this::producers);
    }

    private Object create(NewTopic topic) throws Exception {
        return get(kafka.admin.createTopics(List.of(topic)).all());
    }

    private void topics(String prefix) throws Exception {
        var admin = kafka.admin;
        String a = prefix + "-a";
        String b = prefix + "-b";
        var created = admin.createTopics(List.of(
                new NewTopic(a, 3, Checks.REPLICAS).configs(Map.of("retention.ms", "12345")),
                new NewTopic(b, Optional.empty(), Optional.empty())));
        get(created.all());
        equal(get(created.numPartitions(a)), 3, "partitions in the answer");
        equal(get(created.config(a)).get("retention.ms").value(), "12345", "retention.ms in the answer");
        Uuid id = get(created.topicId(a));
        var described = get(admin.describeTopics(List.of(a)).allTopicNames()).get(a);
        equal(described.partitions().size(), 3, "partitions");
        equal(described.topicId(), id, "the topic id");
        holds(described.partitions().stream().allMatch(p -> p.leader() != null), "every partition has a leader");
        for (var partition : described.partitions()) {
            equal(partition.replicas().size(), (int) Checks.REPLICAS, "replicas");
            equal(partition.isr().size(), (int) Checks.REPLICAS, "replicas in sync");
        }
        var byId = get(admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds());
        equal(byId.get(id).name(), a, "the topic described by id");
        holds(get(admin.listTopics().names()).containsAll(List.of(a, b)), "both are listed");
        NewTopic c = new NewTopic(prefix + "-c", 1, Checks.REPLICAS);
        fails(TopicExistsException.class, "creating it twice", () -> create(new NewTopic(a, 3, Checks.REPLICAS)));
        fails(InvalidTopicException.class, "a bad name", () -> create(new NewTopic("bad name!", 1, Checks.REPLICAS)));
        fails(InvalidPartitionsException.class, "no partitions", () -> create(new NewTopic(c.name(), 0, Checks.REPLICAS)));
        fails(InvalidReplicationFactorException.class, "too many replicas", () -> create(new NewTopic(c.name(), 1, (short) 9)));
        fails(InvalidConfigurationException.class, "an unknown setting",
                () -> create(new NewTopic(c.name(), 1, Checks.REPLICAS).configs(Map.of("no.such.setting", "1"))));
        get(admin.createTopics(List.of(c), new CreateTopicsOptions().validateOnly(true)).all());
        holds(!get(admin.listTopics().names()).contains(c.name()), "validate-only creates nothing");
        get(admin.deleteTopics(List.of(a)).all());
        eventually("the topic is gone", () -> !get(admin.listTopics().names()).contains(a));
        fails(UnknownTopicOrPartitionException.class, "deleting it twice", () -> get(admin.deleteTopics(List.of(a)).all()));
        fails(UnknownTopicOrPartitionException.class, "describing it", () -> get(admin.describeTopics(List.of(a)).allTopicNames()));
        Uuid other = get(admin.describeTopics(List.of(b)).allTopicNames()).get(b).topicId();
        get(admin.deleteTopics(TopicCollection.ofTopicIds(List.of(other))).all());
        eventually("the topic deleted by id is gone", () -> !get(admin.listTopics().names()).contains(b));
    }

    private void partitions(String topic) throws Exception {
        kafka.create(topic, 2, Map.of());
        get(kafka.admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all());
        eventually("five partitions", () -> get(kafka.admin.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().size() == 5);
        fails(InvalidPartitionsException.class, "fewer partitions",
                () -> get(kafka.admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all()));
        try (var producer = kafka.producer(Map.of())) {
            kafka.send(producer, topic, 4, "last");
        }
        equal(Kafka.values(kafka.read(topic, 4, 0, 1)), List.of("last"), "the record of the new partition");
    }

    private Config described(ConfigResource resource) throws Exception {
        return get(kafka.admin.describeConfigs(List.of(resource)).all()).get(resource);
    }

    private Void alter(ConfigResource resource, AlterConfigOp... ops) throws Exception {
        Map<ConfigResource, Collection<AlterConfigOp>> change = new HashMap<>();
        change.put(resource, List.of(ops));
        return get(kafka.admin.incrementalAlterConfigs(change).all());
    }

    private static AlterConfigOp op(String name, String value, OpType type) {
        return new AlterConfigOp(new ConfigEntry(name, value), type);
    }

    private void configs(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        var before = described(resource);
        equal(before.get("retention.ms").value(), "-1", "retention.ms");
        equal(before.get("retention.ms").source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "the source of retention.ms");
        equal(before.get("retention.ms").type(), ConfigEntry.ConfigType.LONG, "the type of retention.ms");
        equal(before.get("cleanup.policy").type(), ConfigEntry.ConfigType.LIST, "the type of cleanup.policy");
        holds(before.get("cleanup.policy").isDefault(), "cleanup.policy is a default");
        alter(resource, op("retention.ms", "777000", OpType.SET), op("cleanup.policy", "compact", OpType.APPEND));
        eventually("retention.ms is set", () -> described(resource).get("retention.ms").value().equals("777000"));
        equal(Set.of(described(resource).get("cleanup.policy").value().split(",")), Set.of("compact", "delete"), "cleanup.policy after append");
        alter(resource, op("retention.ms", "", OpType.DELETE), op("cleanup.policy", "compact", OpType.SUBTRACT));
        eventually("retention.ms is a default", () -> described(resource).get("retention.ms").isDefault());
        equal(described(resource).get("cleanup.policy").value(), "delete", "cleanup.policy after subtract");
        fails(InvalidConfigurationException.class, "a bad value", () -> alter(resource, op("retention.ms", "soon", OpType.SET)));
        fails(InvalidConfigurationException.class, "an unknown setting", () -> alter(resource, op("no.such.setting", "1", OpType.SET)));
        var node = get(kafka.admin.describeCluster().controller());
        var broker = described(new ConfigResource(ConfigResource.Type.BROKER, node.idString()));
        holds(!broker.entries().isEmpty(), "the broker has settings");
        fails(UnknownTopicOrPartitionException.class, "describing an unknown topic",
                () -> described(new ConfigResource(ConfigResource.Type.TOPIC, topic + "-no")));
        var resources = get(kafka.admin.listConfigResources(Set.of(ConfigResource.Type.TOPIC),
                new org.apache.kafka.clients.admin.ListConfigResourcesOptions()).all());
        holds(resources.contains(resource), "the topic is among the resources with settings");
    }

    private void deleteRecords(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        TopicPartition at = new TopicPartition(topic, 0);
        try (var producer = kafka.producer(Map.of())) {
            for (int i = 0; i < 10; i++) {
                kafka.send(producer, topic, 0, "v" + i);
            }
        }
        var deleted = kafka.admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(4)));
        equal(get(deleted.lowWatermarks().get(at)).lowWatermark(), 4L, "the low watermark");
        equal(kafka.read(topic, 0, 0, 6).get(0).offset(), 4L, "the first offset that is left");
        fails(OffsetOutOfRangeException.class, "deleting past the end",
                () -> get(kafka.admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(11))).all()));
        var all = kafka.admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(-1)));
        equal(get(all.lowWatermarks().get(at)).lowWatermark(), 10L, "the low watermark after all");
    }

    private void groups(String topic) throws Exception {
        kafka.create(topic, 2, Map.of());
        String group = topic + "-group";
        TopicPartition zero = new TopicPartition(topic, 0);
        TopicPartition one = new TopicPartition(topic, 1);
        var admin = kafka.admin;
        try (var consumer = kafka.consumer(Map.of("group.id", group, "client.id", "a-member"))) {
            consumer.subscribe(List.of(topic));
            eventually("an assignment", () -> {
                consumer.poll(java.time.Duration.ofMillis(50));
                return consumer.assignment().size() == 2;
            });
            equal(state(group), Optional.of(GroupState.STABLE), "the listed state");
            var described = get(admin.describeConsumerGroups(List.of(group)).all()).get(group);
            equal(List.of(described.groupState(), described.partitionAssignor()), List.of(GroupState.STABLE, "range"), "the group");
            var member = described.members().iterator().next();
            equal(member.clientId(), "a-member", "its member");
            equal(member.assignment().topicPartitions(), Set.of(zero, one), "its assignment");
            fails(GroupNotEmptyException.class, "deleting a group in use", () -> get(admin.deleteConsumerGroups(List.of(group)).all()));
            consumer.commitSync(Map.of(zero, new OffsetAndMetadata(0), one, new OffsetAndMetadata(0, "m")));
        }
        eventually("the group is empty", () -> state(group).equals(Optional.of(GroupState.EMPTY)));
        get(admin.alterConsumerGroupOffsets(group, Map.of(zero, new OffsetAndMetadata(5))).all());
        get(admin.deleteConsumerGroupOffsets(group, Set.of(one)).all());
        var left = get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
        equal(left, Map.of(zero, new OffsetAndMetadata(5)), "the offsets that are left");
        get(admin.deleteConsumerGroups(List.of(group)).all());
        equal(state(group), Optional.empty(), "the state of a deleted group");
        fails(GroupIdNotFoundException.class, "deleting it twice", () -> get(admin.deleteConsumerGroups(List.of(group)).all()));
    }

    private Optional<GroupState> state(String group) throws Exception {
        return get(kafka.admin.listGroups(new ListGroupsOptions()).all()).stream()
                .filter(g -> g.groupId().equals(group)).findFirst().flatMap(GroupListing::groupState);
    }

    private void cluster() throws Exception {
        var described = kafka.admin.describeCluster();
        holds(!get(described.clusterId()).isEmpty(), "the cluster has an id");
        var addresses = get(described.nodes()).stream().map(n -> n.host() + ":" + n.port()).toList();
        holds(addresses.contains(kafka.bootstrap), kafka.bootstrap + " is one of " + addresses);
        holds(get(described.nodes()).contains(get(described.controller())), "the controller is a node");
        get(kafka.admin.describeFeatures().featureMetadata());
    }

    private void logDirs(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        try (var producer = kafka.producer(Map.of())) {
            kafka.send(producer, topic, 0, "x".repeat(100_000));
        }
        var node = get(kafka.admin.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().get(0).leader().id();
        long size = 0;
        for (var dir : get(kafka.admin.describeLogDirs(List.of(node)).allDescriptions()).get(node).values()) {
            var replica = dir.replicaInfos().get(new TopicPartition(topic, 0));
            size += replica == null ? 0 : replica.size();
        }
        holds(size >= 100_000, "the size (" + size + ") holds what was written");
    }

    private void producers(String topic) throws Exception {
        kafka.create(topic, 1, Map.of());
        TopicPartition at = new TopicPartition(topic, 0);
        try (var producer = kafka.producer(Map.of())) {
            kafka.send(producer, topic, 0, "a");
            kafka.send(producer, topic, 0, "b");
        }
        var active = get(kafka.admin.describeProducers(List.of(at)).partitionResult(at)).activeProducers();
        equal(active.size(), 1, "producers");
        equal(active.get(0).lastSequence(), 1, "the last sequence");
    }
}
