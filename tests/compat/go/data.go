package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func produceConsume(topic string, codec kgo.CompressionCodec) {
	create(topic, 1, nil)
	writeRecords(topic, codec)
	equal(lines(read(topic, 0, 0, recordCount)), expectedLines(topic), "what was read")
	// From the middle of a batch: the broker gives the whole batch, the client drops the head.
	middle := read(topic, 0, recordCount-5, 5)
	equal(lines(middle), expectedLines(topic)[recordCount-5:], "what was read from the middle")
}

func acks(topic string) {
	create(topic, 1, nil)
	for _, level := range []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()} {
		cl := client(kgo.RequiredAcks(level), kgo.DisableIdempotentWrite())
		send(cl, &kgo.Record{Topic: topic, Value: []byte("x")})
		cl.Close()
	}
	equal(values(read(topic, 0, 0, 3)), []string{"x", "x", "x"}, "values")
}

func tooLarge(topic string) {
	create(topic, 1, map[string]string{"max.message.bytes": "10000"})
	cl := client(kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer cl.Close()
	err := cl.ProduceSync(within(), &kgo.Record{Topic: topic, Value: make([]byte, 20_000)}).FirstErr()
	equal(errors.Is(err, kerr.MessageTooLarge), true, fmt.Sprintf("MessageTooLarge as the error (%v)", err))
	send(cl, &kgo.Record{Topic: topic, Value: []byte("small")})
	equal(values(read(topic, 0, 0, 1)), []string{"small"}, "what is stored")
}

func listOffsets(topic string) {
	create(topic, 1, nil)
	cl := client()
	defer cl.Close()
	for i := 0; i < 10; i++ {
		send(cl, &kgo.Record{Topic: topic, Value: []byte(fmt.Sprint(i)), Timestamp: time.UnixMilli(timestampBaseMs + 100*int64(i))})
	}
	adm := admin()
	defer adm.Close()
	one := func(listed kadm.ListedOffsets, err error) kadm.ListedOffset {
		must(err, "listing offsets")
		o, found := listed.Lookup(topic, 0)
		equal(found, true, "the partition in the answer")
		must(o.Err, "listing offsets")
		return o
	}
	at := func(ms int64) (int64, int64) {
		o := one(adm.ListOffsetsAfterMilli(within(), ms, topic))
		return o.Offset, o.Timestamp
	}
	expect := func(ms, offset, timestamp int64, what string) {
		o, t := at(ms)
		equal([]int64{o, t}, []int64{offset, timestamp}, what)
	}
	equal(one(adm.ListStartOffsets(within(), topic)).Offset, int64(0), "earliest")
	equal(one(adm.ListEndOffsets(within(), topic)).Offset, int64(10), "latest")
	equal(one(adm.ListCommittedOffsets(within(), topic)).Offset, int64(10), "latest, read committed")
	newest := one(adm.ListMaxTimestampOffsets(within(), topic))
	equal([]int64{newest.Offset, newest.Timestamp}, []int64{9, timestampBaseMs + 900}, "max timestamp")
	expect(timestampBaseMs-1, 0, timestampBaseMs, "the offset before all times")
	expect(timestampBaseMs+400, 4, timestampBaseMs+400, "the offset at an exact time")
	expect(timestampBaseMs+401, 5, timestampBaseMs+500, "the offset between two times")
	// kadm turns "none" into the end.
	expect(timestampBaseMs+901, 10, -1, "the offset after all times")
}

func leaderEpochs(topic string) {
	create(topic, 1, nil)
	cl := client()
	defer cl.Close()
	send(cl, &kgo.Record{Topic: topic, Value: []byte("x")})
	adm := admin()
	defer adm.Close()
	listed, err := adm.ListEndOffsets(within(), topic)
	must(err, "listing offsets")
	end, _ := listed.Lookup(topic, 0)
	equal(end.LeaderEpoch >= 0, true, "an epoch at the end")
	ask := func(epoch int32) kadm.OffsetForLeaderEpoch {
		request := kadm.OffsetForLeaderEpochRequest{}
		request.Add(topic, 0, epoch)
		answer, err := adm.OffsetForLeaderEpoch(within(), request)
		must(err, "asking for the end of an epoch")
		must(answer[topic][0].Err, "asking for the end of an epoch")
		return answer[topic][0]
	}
	current := ask(end.LeaderEpoch)
	equal([]int64{int64(current.LeaderEpoch), current.EndOffset}, []int64{int64(end.LeaderEpoch), 1}, "the end of the current epoch")
	future := ask(end.LeaderEpoch + 5)
	equal([]int64{int64(future.LeaderEpoch), future.EndOffset}, []int64{-1, -1}, "the end of a future epoch")
	equal(read(topic, 0, 0, 1)[0].LeaderEpoch, end.LeaderEpoch, "the epoch of the record")
}

func outOfRange(topic string) {
	create(topic, 1, nil)
	cl := client()
	defer cl.Close()
	send(cl, &kgo.Record{Topic: topic, Value: []byte("only")})
	past := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(1000)}}
	strict := client(kgo.ConsumePartitions(past), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer strict.Close()
	var seen error
	eventually("an error", func() bool {
		for _, e := range strict.PollFetches(within()).Errors() {
			seen = e.Err
		}
		return seen != nil
	})
	equal(errors.Is(seen, kerr.OffsetOutOfRange), true, fmt.Sprintf("OffsetOutOfRange as the error (%v)", seen))
	equal(values(read(topic, 0, 1000, 1)), []string{"only"}, "what the reset to earliest reads")
}

func idempotentThroughCuts(topic, relay string) {
	create(topic, 3, nil)
	cl := client(kgo.SeedBrokers(relay), kgo.ProducerLinger(0), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	defer cl.Close()
	offsets := make([]int64, 600)
	failures := make([]error, 600)
	for i := 0; i < 600; i++ {
		cl.Produce(within(), &kgo.Record{Topic: topic, Partition: int32(i % 3), Value: []byte(fmt.Sprintf("%06d", i))}, func(r *kgo.Record, err error) {
			offsets[i], failures[i] = r.Offset, err
		})
		if i%10 == 9 {
			time.Sleep(10 * time.Millisecond)
		}
		// So often that responses are lost however few batches a slow machine makes of the records.
		if i%20 == 19 {
			must(cl.Flush(within()), "flushing")
		}
	}
	must(cl.Flush(within()), "flushing")
	for i, err := range failures {
		must(err, fmt.Sprintf("producing record %d", i))
	}
	for p := 0; p < 3; p++ {
		got := read(topic, int32(p), 0, 200)
		equal(len(got), 200, fmt.Sprintf("records in partition %d", p))
		for n, r := range got {
			i := 3*n + p
			equal(string(r.Value), fmt.Sprintf("%06d", i), fmt.Sprintf("value %d of partition %d", n, p))
			equal(r.Offset, offsets[i], fmt.Sprintf("offset of record %d", i))
		}
	}
}

// waitForLeaders waits until every partition answers. Kafka answers CreateTopics before a broker knows the topic; it may
// then refuse the first batch of a producer and accept its second, whose sequence number it takes for the first: the
// retry can never succeed.
func waitForLeaders(topic string) {
	adm := admin()
	defer adm.Close()
	eventually("every partition of the new topic answers", func() bool {
		listed, err := adm.ListEndOffsets(within(), topic)
		return err == nil && listed.Error() == nil
	})
}

func autoCreate(topic string) {
	cl := client(kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(20))
	defer cl.Close()
	send(cl, &kgo.Record{Topic: topic, Value: []byte("first")})
	equal(values(read(topic, 0, 0, 1)), []string{"first"}, "the record of the new topic")
}

func unknownTopic(topic string) {
	cl := client(kgo.UnknownTopicRetries(1))
	defer cl.Close()
	err := cl.ProduceSync(within(), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr()
	equal(errors.Is(err, kerr.UnknownTopicOrPartition), true, fmt.Sprintf("UnknownTopicOrPartition as the error (%v)", err))
	adm := admin()
	defer adm.Close()
	known, err := adm.ListTopics(within())
	must(err, "listing topics")
	for name := range known {
		equal(strings.HasPrefix(name, topic), false, "a look creates a topic")
	}
}
