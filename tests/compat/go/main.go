// franz-go.
//
//	check BOOTSTRAP PREFIX RELAY            all checks, one line each
//	write BOOTSTRAP PREFIX                  the records of records.go into PREFIX-CODEC for every codec
//	dump BOOTSTRAP TOPIC...                 prints what it reads
//	member BOOTSTRAP TOPIC GROUP ASSIGNOR   a group member, until it is killed
//	load, follow, log                       for the crash and cluster tests: see load.go
//
// MERIDIAN_TEST_RACK is the clients' rack: fetches go to a replica there (KIP-392).
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const wait = 90 * time.Second

var bootstrap string

// How many replicas the topics have: those that the cluster gives to every topic.
var replicas = copies(os.Getenv("MERIDIAN_TEST_REPLICAS"))

func copies(text string) int16 {
	if text == "" {
		return 1
	}
	return int16(number(text))
}

// problem carries the reason of a failed check up to run.
type problem struct{ reason string }

func fail(format string, arguments ...any) {
	panic(problem{fmt.Sprintf(format, arguments...)})
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func equal(got, want any, what string) {
	if !reflect.DeepEqual(got, want) {
		g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want)
		if len(g) > 600 {
			g = g[:600] + "..."
		}
		if len(w) > 600 {
			w = w[:600] + "..."
		}
		fail("%s is %s, expected %s", what, g, w)
	}
}

func eventually(what string, probe func() bool) {
	deadline := time.Now().Add(wait)
	for !probe() {
		if time.Now().After(deadline) {
			fail("after %s still not: %s", wait, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func client(options ...kgo.Opt) *kgo.Client {
	all := append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(messageBytesMax - 4096),
		kgo.ProducerLinger(5 * time.Millisecond),
		kgo.MetadataMaxAge(2 * time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.FetchMaxWait(200 * time.Millisecond),
		// A new topic is not known at once on a cold Kafka.
		kgo.UnknownTopicRetries(50),
		kgo.Rack(os.Getenv("MERIDIAN_TEST_RACK")),
	}, options...)
	cl, err := kgo.NewClient(all...)
	must(err, "making a client")
	return cl
}

func admin() *kadm.Client { return kadm.NewClient(client()) }

func create(topic string, partitions int32, configs map[string]string) {
	adm := admin()
	defer adm.Close()
	all := map[string]*string{
		"max.message.bytes": kadm.StringPtr(fmt.Sprint(messageBytesMax)),
		"retention.ms":      kadm.StringPtr("-1"),
	}
	for k, v := range configs {
		all[k] = kadm.StringPtr(v)
	}
	_, err := adm.CreateTopic(within(), partitions, replicas, all, topic)
	must(err, "creating "+topic)
	waitForLeaders(topic)
}

func send(cl *kgo.Client, records ...*kgo.Record) {
	for _, r := range cl.ProduceSync(within(), records...) {
		must(r.Err, "producing")
	}
}

func values(records []*kgo.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, string(r.Value))
	}
	return out
}

func read(topic string, partition int32, from int64, count int) []*kgo.Record {
	cl := client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}))
	defer cl.Close()
	got := []*kgo.Record{}
	ctx := within()
	for len(got) < count {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			fail("only %d of %d records of %s arrived", len(got), count, topic)
		}
		for _, e := range fetches.Errors() {
			fail("reading %s: %v", e.Topic, e.Err)
		}
		got = append(got, fetches.Records()...)
	}
	return got
}

func lines(records []*kgo.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, line(r))
	}
	return out
}

func writeRecords(topic string, codec kgo.CompressionCodec) {
	cl := client(kgo.ProducerBatchCompression(codec))
	defer cl.Close()
	records := []*kgo.Record{}
	for i := 0; i < recordCount; i++ {
		records = append(records, record(topic, i))
	}
	// Several batches: this client sends a batch uncompressed that does not shrink, and the large value does not.
	send(cl, records[:20]...)
	send(cl, records[20:]...)
	for i, r := range records {
		equal(r.Offset, int64(i), "the acknowledged offset")
	}
}

// runner runs checks and prints one line for each: `ok NAME` or `FAIL NAME reason`.
type runner struct {
	prefix string
	only   []string
	mutex  sync.Mutex
	failed int
}

func (r *runner) run(name string, check func(topic string)) {
	if !slices.ContainsFunc(r.only, func(part string) bool { return strings.Contains(name, part) }) {
		return
	}
	started := time.Now()
	outcome := "ok " + name
	func() {
		defer func() {
			if p := recover(); p != nil {
				reason, known := p.(problem)
				if !known {
					panic(p)
				}
				outcome = "FAIL " + name + " " + strings.Join(strings.Fields(reason.reason), " ")
			}
		}()
		check(r.prefix + "-" + name)
	}()
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if strings.HasPrefix(outcome, "FAIL") {
		r.failed++
	}
	fmt.Println(outcome)
	fmt.Fprintf(os.Stderr, "%s took %.1f s\n", name, time.Since(started).Seconds())
}

func check(prefix, relay string) int {
	r := &runner{prefix: prefix, only: strings.Split(os.Getenv("MERIDIAN_TEST_ONLY"), ",")}
	// The groups wait for sessions to expire: side by side.
	var waiting sync.WaitGroup
	for _, assignor := range []string{"range", "roundrobin", "sticky", "cooperative-sticky"} {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			r.run("rebalance-"+assignor, func(topic string) { rebalance(topic, assignor) })
		}()
	}
	for _, c := range codecs {
		r.run("produce-consume-"+c.name, func(topic string) { produceConsume(topic, c.codec) })
	}
	r.run("acks", acks)
	r.run("record-too-large", tooLarge)
	r.run("list-offsets", listOffsets)
	r.run("leader-epochs", leaderEpochs)
	r.run("offset-out-of-range", outOfRange)
	r.run("static-member", staticMember)
	r.run("commit-and-seek", commitAndSeek)
	r.run("idempotent-through-cuts", func(topic string) { idempotentThroughCuts(topic, relay) })
	r.run("admin-topics", adminTopics)
	r.run("admin-partitions", adminPartitions)
	r.run("admin-configs", adminConfigs)
	r.run("admin-delete-records", adminDeleteRecords)
	r.run("admin-groups", adminGroups)
	r.run("admin-cluster", adminCluster)
	r.run("admin-log-dirs", adminLogDirs)
	r.run("admin-producers", adminProducers)
	r.run("auto-create", autoCreate)
	r.run("unknown-topic", unknownTopic)
	waiting.Wait()
	return r.failed
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: franz check|write|dump|member BOOTSTRAP ...")
		os.Exit(2)
	}
	verb := os.Args[1]
	bootstrap = os.Args[2]
	rest := os.Args[3:]
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		reason, known := p.(problem)
		if !known {
			panic(p)
		}
		fmt.Fprintln(os.Stderr, reason.reason)
		os.Exit(1)
	}()
	switch verb {
	case "check":
		if check(rest[0], rest[1]) > 0 {
			os.Exit(1)
		}
	case "write":
		for _, c := range codecs {
			topic := rest[0] + "-" + c.name
			create(topic, 1, nil)
			writeRecords(topic, c.codec)
		}
	case "dump":
		for _, topic := range rest {
			for _, l := range lines(read(topic, 0, 0, recordCount)) {
				fmt.Println(l)
			}
		}
	case "member":
		member(rest[0], rest[1], rest[2])
	case "load":
		load(rest[0], number(rest[1]), number(rest[2]), number(rest[3]), number(rest[4]), rest[5])
	case "follow":
		followLog(rest[0], number(rest[1]), rest[2])
	case "log":
		readLog(rest[0])
	default:
		fmt.Fprintln(os.Stderr, "unknown verb", verb)
		os.Exit(2)
	}
}
