//! Which of several connections a frame takes. Pure.

use std::time::Duration;

/// What a connection may have to do, in its congestion windows, before more frames wait elsewhere: so much keeps it busy.
const WINDOWS_AHEAD: u64 = 2;

/// Longer frames are of many packets, and one of them is as likely lost the second time.
const REPEATED_BYTES_MAX: usize = 32 << 10;

/// Frames are repeated while all that is under way is at most this part of the windows, of which a full link uses half.
const REPEATED_SHARE: u64 = 16;

/// What a connection has to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Given to it and not acknowledged.
    pub(crate) waiting_bytes: u64,
    /// Its congestion window.
    pub(crate) window_bytes: u64,
    /// There and back.
    pub(crate) rtt: Duration,
}

impl Load {
    /// The one of `loads` over which so many bytes are there first, beginning with the one whose turn it is; `None` while even that one
    /// has enough to do: what waits can still be overtaken by what matters more.
    ///
    /// Connections may be fast or slow. A frame that is stuck in a slow one holds up all that come after it in its shard.
    pub(crate) fn choose(loads: &[Self], turn: usize, bytes: usize) -> Option<usize> {
        let count = loads.len();
        let (first, load) = (0..count)
            .map(|n| (turn + n) % count)
            .map(|at| (at, &loads[at]))
            .min_by_key(|(_, load)| load.nanos(bytes))?;
        (load.waiting_bytes <= WINDOWS_AHEAD * load.window_bytes).then_some(first)
    }

    /// Whether a frame may travel twice: it is small, and what is under way is little beside what the connections carry.
    pub(crate) fn may_repeat(loads: &[Self], bytes: usize) -> bool {
        let waiting: u64 = loads.iter().map(|load| load.waiting_bytes).sum();
        let windows: u64 = loads.iter().map(|load| load.window_bytes).sum();
        bytes <= REPEATED_BYTES_MAX && (waiting + bytes as u64) * REPEATED_SHARE <= windows
    }

    fn nanos(&self, bytes: usize) -> u128 {
        let bytes = u128::from(self.waiting_bytes) + bytes as u128;
        // A window in each round trip.
        self.rtt.as_nanos() * bytes / u128::from(self.window_bytes.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(waiting_bytes: u64, window_bytes: u64) -> Load {
        Load {
            waiting_bytes,
            window_bytes,
            rtt: Duration::from_millis(100),
        }
    }

    #[test]
    fn a_frame_takes_the_connection_over_which_it_is_there_first() {
        // The second has more to do, and is faster by more than that.
        assert_eq!(
            Load::choose(&[load(0, 10_000), load(1_000_000, 1_000_000)], 0, 1 << 20),
            Some(1)
        );
        assert_eq!(
            Load::choose(&[load(0, 500_000), load(1_000_000, 500_000)], 0, 1 << 20),
            Some(0)
        );
    }

    #[test]
    fn a_small_frame_travels_twice_while_the_link_has_little_to_do() {
        let idle = [load(0, 500_000), load(10_000, 500_000)];
        assert!(Load::may_repeat(&idle, 2_000));
        assert!(!Load::may_repeat(&idle, 40_000), "it is long");
        assert!(!Load::may_repeat(
            &[load(0, 500_000), load(200_000, 500_000)],
            2_000
        ));
        assert!(!Load::may_repeat(&[], 2_000));
    }

    #[test]
    fn equal_ones_take_turns() {
        let loads = [load(0, 10_000); 3];
        let turns: Vec<_> = (0..4).map(|turn| Load::choose(&loads, turn, 1000)).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn a_frame_waits_for_the_fast_one_rather_than_to_be_stuck_in_a_slow_one() {
        let fast = load(2_500_000, 1_000_000);
        assert_eq!(Load::choose(&[load(0, 10_000), fast], 0, 1 << 20), None);
        assert_eq!(Load::choose(&[load(0, 900_000), fast], 0, 1 << 20), Some(0));
        assert_eq!(Load::choose(&[], 0, 1), None);
    }
}
