package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What the crash and cluster tests run: load from idempotent producers with a log of what was acknowledged, a consumer
// that follows through every fault, and a reader of everything. All write the lines of tests/checker/src/lines.rs.

func number(text string) int {
	n, err := strconv.Atoi(text)
	must(err, "reading a number")
	return n
}

func terminated() context.Context {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// load TOPIC PARTITIONS PRODUCERS RATE FILE: each producer sends RATE records a second, `PRODUCER PARTITION SEQUENCE`
// as their values, sequences from 0 for each producer and partition. Until SIGTERM; then it waits for what is in flight.
// FILE gets a line `ok` for each acknowledgement, and at the end `sent` for each producer and partition. The producers
// are numbered from FIRST.
func load(topic string, partitions, first, producers, rate int, path string) {
	file, err := os.Create(path)
	must(err, "creating the log of acknowledgements")
	out := bufio.NewWriter(file)
	var mutex sync.Mutex
	note := func(format string, arguments ...any) {
		mutex.Lock()
		defer mutex.Unlock()
		fmt.Fprintf(out, format, arguments...)
	}
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			mutex.Lock()
			must(out.Flush(), "writing the log of acknowledgements")
			mutex.Unlock()
		}
	}()
	stop := terminated()
	var running sync.WaitGroup
	failures := make(chan error, producers)
	for p := first; p < first+producers; p++ {
		running.Add(1)
		go func() {
			defer running.Done()
			if err := produce(stop, topic, p, partitions, rate, note); err != nil {
				failures <- fmt.Errorf("producer %d: %w", p, err)
			}
		}()
	}
	running.Wait()
	close(failures)
	mutex.Lock()
	must(out.Flush(), "writing the log of acknowledgements")
	mutex.Unlock()
	for err := range failures {
		fail("%v", err)
	}
}

func produce(stop context.Context, topic string, producer, partitions, rate int, note func(string, ...any)) error {
	compression := codecs[producer%len(codecs)].codec
	cl := client(
		kgo.ProducerBatchCompression(compression),
		kgo.ProducerLinger(time.Duration(producer%3)*2*time.Millisecond),
		// A gap in the sequence numbers is what we look for: the client must not paper over it.
		kgo.StopProducerOnDataLossDetected(),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.RequestTimeoutOverhead(5*time.Second),
		kgo.MaxBufferedRecords(2000),
	)
	defer cl.Close()
	var mutex sync.Mutex
	var failure error
	sequences := make([]int, partitions)
	next := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for stop.Err() == nil {
		<-tick.C
		for range max(1, rate/100) {
			partition := next % partitions
			next++
			sequence := sequences[partition]
			sequences[partition]++
			value := fmt.Sprintf("%d %d %d", producer, partition, sequence)
			// Without a deadline of ours: an idempotent producer retries until it knows.
			cl.Produce(context.Background(), &kgo.Record{Topic: topic, Partition: int32(partition), Value: []byte(value)}, func(r *kgo.Record, err error) {
				if err == nil {
					note(`{"type":"ok","producer":%d,"partition":%d,"sequence":%d,"offset":%d}`+"\n", producer, partition, sequence, r.Offset)
					return
				}
				mutex.Lock()
				defer mutex.Unlock()
				if failure == nil {
					failure = fmt.Errorf("record %s: %w", value, err)
				}
			})
		}
	}
	flushing, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := cl.Flush(flushing); err != nil {
		return fmt.Errorf("what is in flight was not settled: %w", err)
	}
	for partition, count := range sequences {
		note(`{"type":"sent","producer":%d,"partition":%d,"count":%d}`+"\n", producer, partition, count)
	}
	mutex.Lock()
	defer mutex.Unlock()
	return failure
}

// consume gives all partitions of the topic from the start to `each`, until it says enough.
func consume(ctx context.Context, topic string, each func(*kgo.Record)) {
	cl := client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	defer cl.Close()
	for ctx.Err() == nil {
		// Errors of a server that is away are the client's to retry.
		cl.PollFetches(ctx).EachRecord(each)
	}
}

func noteRead(out io.Writer, r *kgo.Record) {
	fmt.Fprintf(out, `{"type":"read","partition":%d,"offset":%d,"value":%q}`+"\n", r.Partition, r.Offset, r.Value)
}

// followLog TOPIC PARTITIONS FILE: appends a line for each record it reads, through every fault, until SIGTERM.
// It commits what it has read every now and then, and appends a line for each commit that succeeded.
func followLog(topic string, partitions int, path string) {
	file, err := os.Create(path)
	must(err, "creating the log of what was read")
	out := bufio.NewWriter(file)
	for p := range partitions {
		fmt.Fprintf(out, `{"type":"position","partition":%d,"offset":0}`+"\n", p)
	}
	stop := terminated()
	var mutex sync.Mutex
	read := map[int32]int64{}
	var committing sync.WaitGroup
	committing.Add(1)
	go func() {
		defer committing.Done()
		adm := admin()
		defer adm.Close()
		for stop.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			offsets := kadm.Offsets{}
			mutex.Lock()
			for partition, next := range read {
				offsets.AddOffset(topic, partition, next, -1)
			}
			mutex.Unlock()
			// A commit that fails, or whose answer is lost, may be there or not.
			if len(offsets) == 0 || adm.CommitAllOffsets(stop, groupOf(topic), offsets) != nil {
				continue
			}
			mutex.Lock()
			offsets.Each(func(o kadm.Offset) {
				fmt.Fprintf(out, `{"type":"commit","partition":%d,"offset":%d}`+"\n", o.Partition, o.At)
			})
			mutex.Unlock()
		}
	}()
	consume(stop, topic, func(r *kgo.Record) {
		mutex.Lock()
		defer mutex.Unlock()
		noteRead(out, r)
		read[r.Partition] = r.Offset + 1
	})
	committing.Wait()
	must(out.Flush(), "writing the log of what was read")
}

func groupOf(topic string) string { return topic + "-group" }

// listed asks again while a leader is being elected: the admin client tells a partition's error and leaves it at that.
func listed(what string, ask func() (kadm.ListedOffsets, error)) kadm.ListedOffsets {
	for deadline := time.Now().Add(wait); ; time.Sleep(200 * time.Millisecond) {
		offsets, err := ask()
		if err == nil {
			err = offsets.Error()
		}
		if err == nil || time.Now().After(deadline) {
			must(err, what)
			return offsets
		}
	}
}

// committedOffsets asks again while the group's coordinator is being elected.
func committedOffsets(adm *kadm.Client, topic string) kadm.OffsetResponses {
	for deadline := time.Now().Add(wait); ; time.Sleep(200 * time.Millisecond) {
		committed, err := adm.FetchOffsets(within(), groupOf(topic))
		if err == nil {
			err = committed.Error()
		}
		if err == nil || time.Now().After(deadline) {
			must(err, "reading the committed offsets")
			return committed
		}
	}
}

// readLog TOPIC: prints a line for each record up to the end, for the range of each partition, and for each committed
// offset of the group.
func readLog(topic string) {
	adm := admin()
	starts := listed("listing start offsets", func() (kadm.ListedOffsets, error) {
		return adm.ListStartOffsets(within(), topic)
	})
	ends := listed("listing end offsets", func() (kadm.ListedOffsets, error) {
		return adm.ListEndOffsets(within(), topic)
	})
	committed := committedOffsets(adm, topic)
	adm.Close()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	committed.Each(func(o kadm.OffsetResponse) {
		fmt.Fprintf(out, `{"type":"committed","partition":%d,"offset":%d}`+"\n", o.Partition, o.At)
	})
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, o.Partition)
		fmt.Fprintf(out, `{"type":"complete","partition":%d,"start":%d,"end":%d}`+"\n", o.Partition, start.Offset, o.Offset)
		if o.Offset > start.Offset {
			left[o.Partition] = o.Offset
		}
	})
	ctx, enough := context.WithTimeout(context.Background(), 240*time.Second)
	defer enough()
	if len(left) == 0 {
		return
	}
	consume(ctx, topic, func(r *kgo.Record) {
		noteRead(out, r)
		if end, has := left[r.Partition]; has && r.Offset >= end-1 {
			delete(left, r.Partition)
			if len(left) == 0 {
				enough()
			}
		}
	})
	if len(left) > 0 {
		out.Flush()
		fail("the ends of %v were not reached", left)
	}
}
