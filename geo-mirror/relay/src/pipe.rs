//! One direction of a link: what goes in comes out later, or not at all.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::chance::Chance;
use crate::conditions::Conditions;
use crate::counters::Counters;

/// What may be under way behind the bottleneck. Reached only when much comes through a link without a bottleneck.
const FLYING_BYTES_MAX: usize = 256 << 20;

/// What a packet is, which decides what may happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may get lost, doubled and overtaken.
    Datagram,
    /// A piece of a connection's bytes: it arrives, in order. A cut holds it. Who puts pieces in must bound them.
    Piece,
}

/// One direction of a link. Time is counted from any moment that the caller chooses; it never goes back.
///
/// A packet waits for the bottleneck, passes it in the time that its bytes take, may get lost there, and is then
/// under way for delay and jitter. Without [`crate::Reorder`] nothing overtakes anything.
#[derive(Debug)]
pub struct Pipe<P> {
    conditions: Conditions,
    chance: Chance,
    /// What waits for the bottleneck.
    queue: VecDeque<Held<P>>,
    queued_bytes: usize,
    /// When the bottleneck is through with what it sent last.
    free_at: Duration,
    /// What is under way, by the time when it is due, and then as it came.
    flying: BTreeMap<(Duration, u64), Held<P>>,
    flying_bytes: usize,
    last_due: Duration,
    next_number: u64,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Held<P> {
    packet: P,
    bytes: usize,
    kind: Kind,
    since: Duration,
}

impl<P: Clone> Pipe<P> {
    /// An empty one. Equal seeds, packets and times give equal results.
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            conditions,
            chance: Chance::seeded(seed),
            queue: VecDeque::new(),
            queued_bytes: 0,
            free_at: Duration::ZERO,
            flying: BTreeMap::new(),
            flying_bytes: 0,
            last_due: Duration::ZERO,
            next_number: 0,
            counters: Counters::default(),
        }
    }

    /// The conditions in force.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// What has become of what passed.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Datagrams whose socket refused them on the way out.
    pub(crate) fn handle_refused(&mut self, packets: u64) {
        self.counters.refused_packets += packets;
    }

    /// Other conditions from now on. What waits before the bottleneck passes under the new ones; what is under way
    /// arrives as it would have. A cut drops the datagrams of both.
    pub fn set(&mut self, now: Duration, conditions: Conditions) {
        self.advance(now);
        if conditions.is_cut {
            self.drop_datagrams();
        }
        self.conditions = conditions;
        // The bottleneck begins anew with what it had begun.
        self.free_at = now;
        self.advance(now);
    }

    /// A packet of `bytes` comes in.
    pub fn handle_packet(&mut self, now: Duration, kind: Kind, bytes: usize, packet: P) {
        self.advance(now);
        self.counters.received_packets += 1;
        self.counters.received_bytes += bytes as u64;
        if kind == Kind::Datagram {
            if self.conditions.is_cut {
                self.counters.cut_packets += 1;
                return;
            }
            let is_full =
                self.queued_bytes > 0 && self.queued_bytes + bytes > self.conditions.queue_bytes_max;
            if is_full || self.flying_bytes + bytes > FLYING_BYTES_MAX {
                self.counters.queue_full_packets += 1;
                return;
            }
        }
        self.queue.push_back(Held {
            packet,
            bytes,
            kind,
            since: now,
        });
        self.queued_bytes += bytes;
        self.advance(now);
    }

    /// The next packet that is due. Call it until there is none.
    pub fn poll_packet(&mut self, now: Duration) -> Option<P> {
        self.advance(now);
        if self.conditions.is_cut {
            return None;
        }
        let next = self.flying.first_entry()?;
        if next.key().0 > now {
            return None;
        }
        let held = next.remove();
        self.flying_bytes -= held.bytes;
        let held_for = now.saturating_sub(held.since);
        let counters = &mut self.counters;
        counters.delivered_packets += 1;
        counters.delivered_bytes += held.bytes as u64;
        counters.held_total += held_for;
        counters.held_max = counters.held_max.max(held_for);
        Some(held.packet)
    }

    /// When [`Pipe::poll_packet`] may give something; `None`: not before something comes in or is set.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.conditions.is_cut {
            return None;
        }
        let due = self.flying.first_key_value().map(|((due, _), _)| *due);
        let passes = self.queue.front().map(|head| self.passes_at(head));
        match (due, passes) {
            (Some(due), Some(passes)) => Some(due.min(passes)),
            (due, passes) => due.or(passes),
        }
    }

    /// When the head of the queue is through the bottleneck.
    fn passes_at(&self, head: &Held<P>) -> Duration {
        head.since
            .max(self.free_at)
            .saturating_add(self.conditions.sending_time(head.bytes))
    }

    /// Lets through the bottleneck what is through it by now. Nothing passes a cut.
    fn advance(&mut self, now: Duration) {
        if self.conditions.is_cut {
            return;
        }
        while let Some(head) = self.queue.front() {
            let passed_at = self.passes_at(head);
            if passed_at > now {
                return;
            }
            self.free_at = passed_at;
            let held = self.queue.pop_front().expect("it was looked at");
            self.queued_bytes -= held.bytes;
            self.fly(passed_at, held);
        }
    }

    fn fly(&mut self, from: Duration, held: Held<P>) {
        let is_datagram = held.kind == Kind::Datagram;
        if is_datagram && self.chance.is_lost(self.conditions.loss) {
            self.counters.lost_packets += 1;
            return;
        }
        let jitter = match self.conditions.jitter {
            Duration::ZERO => Duration::ZERO,
            jitter => jitter.mul_f64(self.chance.share()),
        };
        let due = from.saturating_add(self.conditions.delay).saturating_add(jitter);
        let due = if is_datagram && self.chance.happens(self.conditions.reorder.share) {
            self.counters.reordered_packets += 1;
            due.saturating_add(self.conditions.reorder.by)
        } else {
            self.last_due = self.last_due.max(due);
            self.last_due
        };
        if is_datagram && self.chance.happens(self.conditions.duplicate) {
            self.counters.duplicated_packets += 1;
            self.take_off(due, held.clone());
        }
        self.take_off(due, held);
    }

    fn take_off(&mut self, due: Duration, held: Held<P>) {
        self.flying_bytes += held.bytes;
        self.flying.insert((due, self.next_number), held);
        self.next_number += 1;
    }

    fn drop_datagrams(&mut self) {
        let held = self.queue.len() + self.flying.len();
        self.queue.retain(|held| held.kind != Kind::Datagram);
        self.flying.retain(|_, held| held.kind != Kind::Datagram);
        self.counters.cut_packets += (held - self.queue.len() - self.flying.len()) as u64;
        self.queued_bytes = self.queue.iter().map(|held| held.bytes).sum();
        self.flying_bytes = self.flying.values().map(|held| held.bytes).sum();
    }
}

#[cfg(test)]
mod tests;
