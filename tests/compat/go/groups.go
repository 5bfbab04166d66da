package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var assignors = map[string]kgo.GroupBalancer{
	"range":              kgo.RangeBalancer(),
	"roundrobin":         kgo.RoundRobinBalancer(),
	"sticky":             kgo.StickyBalancer(),
	"cooperative-sticky": kgo.CooperativeStickyBalancer(),
}

// follower is a group member that knows what it owns and keeps what it read.
type follower struct {
	*kgo.Client
	mutex   sync.Mutex
	owned   map[int32]bool
	changes int
	seen    []string
}

func follow(topic, group string, options ...kgo.Opt) *follower {
	f := &follower{owned: map[int32]bool{}}
	change := func(owns bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			f.mutex.Lock()
			defer f.mutex.Unlock()
			f.changes++
			for _, p := range partitions[topic] {
				if owns {
					f.owned[p] = true
				} else {
					delete(f.owned, p)
				}
			}
		}
	}
	f.Client = client(append([]kgo.Opt{
		kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(300 * time.Millisecond),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
	}, options...)...)
	return f
}

func (f *follower) poll() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for _, r := range f.PollFetches(ctx).Records() {
		f.seen = append(f.seen, fmt.Sprintf("%d %s", r.Partition, r.Value))
	}
}

func (f *follower) partitions() []int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	out := []int{}
	for p := range f.owned {
		out = append(out, int(p))
	}
	sort.Ints(out)
	return out
}

func member(topic, group, assignor string) {
	f := follow(topic, group, kgo.Balancers(assignors[assignor]))
	for {
		f.poll()
		fmt.Println(len(f.partitions()))
	}
}

func rebalance(topic, assignor string) {
	create(topic, 6, nil)
	group := topic + "-group"
	f := follow(topic, group, kgo.Balancers(assignors[assignor]))
	defer f.Close()
	owns := func(count int) bool {
		f.poll()
		return len(f.partitions()) == count
	}
	eventually("six partitions", func() bool { return owns(6) })

	// A member in another process, so that it can be lost without a word.
	self, err := os.Executable()
	must(err, "finding this program")
	other := exec.Command(self, "member", bootstrap, topic, group, assignor)
	output, err := other.StdoutPipe()
	must(err, "starting a member")
	must(other.Start(), "starting a member")
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	var others atomic.Int64
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			count, _ := strconv.Atoi(lines.Text())
			others.Store(int64(count))
		}
	}()
	eventually("three partitions each", func() bool { return owns(3) && others.Load() == 3 })
	must(other.Process.Kill(), "killing the member")
	// Nobody says goodbye: the session must expire.
	eventually("six partitions again", func() bool { return owns(6) })

	cl := client()
	defer cl.Close()
	want := []string{}
	for p := int32(0); p < 6; p++ {
		send(cl, &kgo.Record{Topic: topic, Partition: p, Value: []byte("after")})
		want = append(want, fmt.Sprintf("%d after", p))
	}
	eventually("a record from each partition", func() bool { f.poll(); return len(f.seen) >= 6 })
	sort.Strings(f.seen)
	equal(f.seen, want, "records after the rebalance")
}

func staticMember(topic string) {
	create(topic, 4, nil)
	group := topic + "-group"
	join := func(instance string) *follower {
		return follow(topic, group, kgo.InstanceID(instance), kgo.SessionTimeout(30*time.Second))
	}
	stays, leaves := join("one"), join("two")
	defer stays.Close()
	eventually("two partitions each", func() bool {
		stays.poll()
		leaves.poll()
		return len(stays.partitions()) == 2 && len(leaves.partitions()) == 2
	})
	// The cooperative assignor may need one more round.
	generation, quiet := int32(-1), 0
	eventually("the group is quiet", func() bool {
		stays.poll()
		leaves.poll()
		_, one := stays.GroupMetadata()
		_, two := leaves.GroupMetadata()
		if one == generation && two == generation {
			quiet++
		} else {
			generation, quiet = one, 0
		}
		return quiet >= 8
	})
	before, owned := stays.changes, leaves.partitions()
	leaves.Close()
	returned := join("two")
	defer returned.Close()
	eventually("the member is back", func() bool {
		stays.poll()
		returned.poll()
		return len(returned.partitions()) == 2
	})
	equal(returned.partitions(), owned, "the partitions of the member that came back")
	for i := 0; i < 10; i++ {
		stays.poll()
	}
	_, now := stays.GroupMetadata()
	equal(now, generation, "the generation")
	equal(stays.changes, before, "rebalances of the member that stayed")
}

func commitAndSeek(topic string) {
	create(topic, 1, nil)
	cl := client()
	defer cl.Close()
	for i := 0; i < 20; i++ {
		send(cl, &kgo.Record{Topic: topic, Value: []byte(fmt.Sprint(i))})
	}
	group := topic + "-group"
	f := follow(topic, group)
	epoch := int32(-1)
	next := func(from *follower) int64 {
		ctx := within()
		fetches := from.PollRecords(ctx, 1)
		must(fetches.Err(), "polling")
		must(ctx.Err(), "polling")
		record := fetches.Records()[0]
		epoch = record.LeaderEpoch
		return record.Offset
	}
	for i := int64(0); i < 7; i++ {
		equal(next(f), i, "the offset read")
	}
	adm := admin()
	defer adm.Close()
	f.CommitOffsetsSync(within(), map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: epoch, Offset: 7}}}, nil)
	committed, err := adm.FetchOffsets(within(), group)
	must(err, "reading the commit")
	stored, _ := committed.Lookup(topic, 0)
	equal([]int64{stored.At, int64(stored.LeaderEpoch)}, []int64{7, int64(epoch)}, "offset and leader epoch of the commit")
	f.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: 15}}})
	equal(next(f), int64(15), "the offset after a seek forward")
	f.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: 2}}})
	equal(next(f), int64(2), "the offset after a seek back")
	f.Close()
	// As an administrator of an empty group: with metadata.
	eventually("the group is empty", func() bool {
		described, err := adm.DescribeGroups(within(), group)
		return err == nil && described[group].State == "Empty"
	})
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 9, LeaderEpoch: -1, Metadata: "nine, ünïcode"})
	must(adm.CommitAllOffsets(within(), group, offsets), "committing")
	committed, err = adm.FetchOffsets(within(), group)
	must(err, "reading the commit")
	stored, _ = committed.Lookup(topic, 0)
	equal([]any{stored.At, stored.Metadata}, []any{int64(9), "nine, ünïcode"}, "the commit read back")
	f = follow(topic, group)
	defer f.Close()
	equal(next(f), int64(9), "the first offset after a rejoin")
}
