package main

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func failsWith(err error, want *kerr.Error, what string) {
	if !errors.Is(err, want) {
		fail("%s must fail with %s, and gave %v", what, want.Message, err)
	}
}

func adminTopics(prefix string) {
	adm := admin()
	defer adm.Close()
	a, b := prefix+"-a", prefix+"-b"
	created, err := adm.CreateTopic(within(), 3, replicas, map[string]*string{"retention.ms": kadm.StringPtr("12345")}, a)
	must(err, "creating")
	equal([]int{int(created.NumPartitions), int(created.ReplicationFactor)}, []int{3, int(replicas)}, "partitions and replicas in the answer")
	equal(*created.Configs["retention.ms"].Value, "12345", "retention.ms in the answer")
	// -1: the broker's defaults.
	other, err := adm.CreateTopic(within(), -1, -1, nil, b)
	must(err, "creating with defaults")
	var known kadm.TopicDetails
	eventually("both topics are listed", func() bool {
		known, err = adm.ListTopics(within(), a, b)
		return err == nil && known.Has(a) && known.Has(b)
	})
	equal(len(known[a].Partitions), 3, "partitions")
	for _, p := range known[a].Partitions {
		equal([]int{len(p.Replicas), len(p.ISR)}, []int{int(replicas), int(replicas)}, "replicas, and replicas in sync")
	}
	equal(known[a].ID, created.ID, "the topic id")
	equal(known[b].ID, other.ID, "the other topic id")
	equal(created.ID != other.ID && created.ID != kadm.TopicID{}, true, "that ids differ")
	try := func(partitions int32, replicas int16, configs map[string]*string, topic string) error {
		_, err := adm.CreateTopic(within(), partitions, replicas, configs, topic)
		return err
	}
	failsWith(try(1, replicas, nil, a), kerr.TopicAlreadyExists, "creating it twice")
	failsWith(try(1, replicas, nil, "bad name!"), kerr.InvalidTopicException, "a bad name")
	failsWith(try(0, replicas, nil, prefix+"-c"), kerr.InvalidPartitions, "no partitions")
	failsWith(try(1, 9, nil, prefix+"-c"), kerr.InvalidReplicationFactor, "too many replicas")
	failsWith(try(1, replicas, map[string]*string{"no.such.setting": kadm.StringPtr("1")}, prefix+"-c"), kerr.InvalidConfig, "an unknown setting")
	_, err = adm.DeleteTopic(within(), a)
	must(err, "deleting")
	eventually("the topic is gone", func() bool {
		known, err := adm.ListTopics(within())
		return err == nil && !known.Has(a)
	})
	_, err = adm.DeleteTopic(within(), a)
	failsWith(err, kerr.UnknownTopicOrPartition, "deleting it twice")
	// By id.
	request := kmsg.NewPtrDeleteTopicsRequest()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.TopicID = other.ID
	request.Topics = append(request.Topics, topic)
	request.TimeoutMillis = 10_000
	cl := client()
	defer cl.Close()
	response, err := request.RequestWith(within(), cl)
	must(err, "deleting by id")
	must(kerr.ErrorForCode(response.Topics[0].ErrorCode), "deleting by id")
	// Created again, it is another topic.
	again, err := adm.CreateTopic(within(), 1, replicas, nil, a)
	must(err, "creating it again")
	equal(again.ID != created.ID, true, "a new id for the new topic")
}

func adminPartitions(topic string) {
	create(topic, 2, nil)
	adm := admin()
	defer adm.Close()
	_, err := adm.UpdatePartitions(within(), 5, topic)
	must(err, "adding partitions")
	eventually("five partitions", func() bool {
		known, err := adm.ListTopics(within(), topic)
		return err == nil && len(known[topic].Partitions) == 5
	})
	changed, err := adm.UpdatePartitions(within(), 3, topic)
	must(err, "asking for fewer")
	failsWith(changed[topic].Err, kerr.InvalidPartitions, "fewer partitions")
	cl := client()
	defer cl.Close()
	send(cl, &kgo.Record{Topic: topic, Partition: 4, Value: []byte("last")})
	equal(values(read(topic, 4, 0, 1)), []string{"last"}, "the record of the new partition")
}

func adminConfigs(topic string) {
	create(topic, 1, nil)
	adm := admin()
	defer adm.Close()
	described := func(key string) kadm.Config {
		all, err := adm.DescribeTopicConfigs(within(), topic)
		must(err, "describing")
		on, err := all.On(topic, nil)
		must(err, "describing")
		must(on.Err, "describing")
		for _, c := range on.Configs {
			if c.Key == key {
				return c
			}
		}
		fail("%s is not described", key)
		return kadm.Config{}
	}
	is := func(key, want string) {
		eventually(key+" is "+want, func() bool { config := described(key); return config.MaybeValue() == want })
	}
	is("retention.ms", "-1")
	equal(described("retention.ms").Source, kmsg.ConfigSourceDynamicTopicConfig, "the source of retention.ms")
	alter := func(configs ...kadm.AlterConfig) error {
		changed, err := adm.AlterTopicConfigs(within(), configs, topic)
		must(err, "altering")
		return changed[0].Err
	}
	set := func(key, value string) kadm.AlterConfig {
		return kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: kadm.StringPtr(value)}
	}
	must(alter(set("retention.ms", "777000"), set("max.message.bytes", "54321")), "altering")
	is("retention.ms", "777000")
	is("max.message.bytes", "54321")
	must(alter(kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "retention.ms"}), "deleting a setting")
	is("retention.ms", "604800000")
	equal(described("retention.ms").Source, kmsg.ConfigSourceDefaultConfig, "the source of a default")
	failsWith(alter(set("retention.ms", "soon")), kerr.InvalidConfig, "a bad value")
	failsWith(alter(set("no.such.setting", "1")), kerr.InvalidConfig, "an unknown setting")
	// The legacy call replaces all: what is not named goes back to its default.
	_, err := adm.AlterTopicConfigsState(within(), []kadm.AlterConfig{set("retention.ms", "888000")}, topic)
	must(err, "the legacy alter")
	is("retention.ms", "888000")
	is("max.message.bytes", "1048588")
	resources, err := adm.ListConfigResources(within())
	must(err, "listing resources")
	found := false
	for _, r := range resources.Resources {
		found = found || r.Name == topic
	}
	equal(found, true, "the topic among the resources with settings")
	meta, err := adm.BrokerMetadata(within())
	must(err, "metadata")
	brokers, err := adm.DescribeBrokerConfigs(within(), meta.Controller)
	must(err, "describing the broker")
	must(brokers[0].Err, "describing the broker")
	equal(len(brokers[0].Configs) > 0, true, "that the broker has settings")
	unknown, err := adm.DescribeTopicConfigs(within(), topic+"-no")
	must(err, "describing an unknown topic")
	failsWith(unknown[0].Err, kerr.UnknownTopicOrPartition, "describing an unknown topic")
}

func adminDeleteRecords(topic string) {
	create(topic, 1, nil)
	cl := client()
	defer cl.Close()
	for i := 0; i < 10; i++ {
		send(cl, &kgo.Record{Topic: topic, Value: []byte(fmt.Sprint(i))})
	}
	adm := admin()
	defer adm.Close()
	remove := func(before int64) kadm.DeleteRecordsResponse {
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: before})
		answer, err := adm.DeleteRecords(within(), offsets)
		must(err, "deleting records")
		return answer[topic][0]
	}
	answer := remove(4)
	must(answer.Err, "deleting records")
	equal(answer.LowWatermark, int64(4), "the low watermark")
	left := read(topic, 0, 4, 6)
	equal([]int64{left[0].Offset, left[5].Offset}, []int64{4, 9}, "the offsets that are left")
	start, err := adm.ListStartOffsets(within(), topic)
	must(err, "listing offsets")
	first, _ := start.Lookup(topic, 0)
	equal(first.Offset, int64(4), "earliest")
	failsWith(remove(11).Err, kerr.OffsetOutOfRange, "deleting past the end")
	answer = remove(-1)
	must(answer.Err, "deleting all records")
	equal(answer.LowWatermark, int64(10), "the low watermark after all")
}

func adminGroups(topic string) {
	create(topic, 2, nil)
	group := topic + "-group"
	f := follow(topic, group, kgo.ClientID("a-member"), kgo.Balancers(kgo.RangeBalancer()))
	eventually("two partitions", func() bool { f.poll(); return len(f.partitions()) == 2 })
	adm := admin()
	defer adm.Close()
	state := func() string {
		listed, err := adm.ListGroups(within())
		must(err, "listing groups")
		return listed[group].State
	}
	equal(state(), "Stable", "the state of the group")
	filtered, err := adm.ListGroups(within(), "Empty")
	must(err, "listing empty groups")
	_, found := filtered[group]
	equal(found, false, "a stable group among the empty ones")
	all, err := adm.DescribeGroups(within(), group)
	must(err, "describing")
	described := all[group]
	must(described.Err, "describing")
	equal([]string{described.State, described.Protocol, described.ProtocolType}, []string{"Stable", "range", "consumer"}, "the group")
	equal([]any{len(described.Members), described.Members[0].ClientID}, []any{1, "a-member"}, "its members")
	assigned, ok := described.Members[0].Assigned.AsConsumer()
	equal(ok && len(assigned.Topics[0].Partitions) == 2, true, "its assignment")
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, 0, 5, -1)
	offsets.AddOffset(topic, 1, 6, -1)
	answer, err := adm.CommitOffsets(within(), group, offsets)
	must(err, "committing from outside")
	failsWith(answer.Error(), kerr.UnknownMemberID, "committing from outside while it has members")
	removed, err := adm.DeleteGroups(within(), group)
	must(err, "deleting")
	failsWith(removed[group].Err, kerr.NonEmptyGroup, "deleting a group in use")
	f.Close()
	eventually("the group is empty", func() bool { return state() == "Empty" })
	must(adm.CommitAllOffsets(within(), group, offsets), "committing to an empty group")
	topicSet := kadm.TopicsSet{}
	topicSet.Add(topic, 0)
	dropped, err := adm.DeleteOffsets(within(), group, topicSet)
	must(err, "deleting an offset")
	must(dropped.Error(), "deleting an offset")
	left, err := adm.FetchOffsets(within(), group)
	must(err, "reading offsets")
	_, has0 := left.Lookup(topic, 0)
	one, has1 := left.Lookup(topic, 1)
	equal([]any{has0, has1, one.At}, []any{false, true, int64(6)}, "the offsets that are left")
	removed, err = adm.DeleteGroups(within(), group)
	must(err, "deleting")
	must(removed[group].Err, "deleting")
	removed, err = adm.DeleteGroups(within(), group)
	must(err, "deleting")
	failsWith(removed[group].Err, kerr.GroupIDNotFound, "deleting it twice")
}

func adminCluster(string) {
	adm := admin()
	defer adm.Close()
	meta, err := adm.BrokerMetadata(within())
	must(err, "metadata")
	equal(meta.Cluster != "", true, "a cluster id")
	found := false
	for _, b := range meta.Brokers {
		found = found || fmt.Sprintf("%s:%d", b.Host, b.Port) == bootstrap
	}
	equal(found, true, "our address among the brokers")
	request := kmsg.NewPtrDescribeClusterRequest()
	cl := client()
	defer cl.Close()
	described, err := request.RequestWith(within(), cl)
	must(err, "describing the cluster")
	equal(described.ClusterID, meta.Cluster, "the cluster id")
	versions, err := adm.ApiVersions(within())
	must(err, "api versions")
	equal(len(versions) >= 1, true, "that a broker tells its versions")
}

func adminLogDirs(topic string) {
	create(topic, 1, nil)
	cl := client(kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer cl.Close()
	send(cl, &kgo.Record{Topic: topic, Value: noise(1, 100_000)})
	adm := admin()
	defer adm.Close()
	set := kadm.TopicsSet{}
	set.Add(topic, 0)
	all, err := adm.DescribeAllLogDirs(within(), set)
	must(err, "describing")
	var size int64
	all.Each(func(d kadm.DescribedLogDir) {
		must(d.Err, "describing")
		if p, found := d.Topics.Lookup(topic, 0); found {
			size += p.Size
		}
	})
	equal(size >= 100_000, true, fmt.Sprintf("that the size (%d) holds what was written", size))
}

func adminProducers(topic string) {
	create(topic, 1, nil)
	cl := client()
	defer cl.Close()
	send(cl, &kgo.Record{Topic: topic, Value: []byte("a")}, &kgo.Record{Topic: topic, Value: []byte("b")})
	id, epoch, err := cl.ProducerID(within())
	must(err, "the producer id")
	adm := admin()
	defer adm.Close()
	set := kadm.TopicsSet{}
	set.Add(topic, 0)
	all, err := adm.DescribeProducers(within(), set)
	must(err, "describing producers")
	active := []string{}
	for _, p := range all.SortedProducers() {
		active = append(active, fmt.Sprint(p.ProducerID, " ", p.ProducerEpoch, " ", p.LastSequence))
	}
	equal(active, []string{fmt.Sprint(id, " ", epoch, " ", 1)}, "the producers")
}
