//! The clock and the dice of certificates.

use meridian_client::driver::now_ms;
use rand::Rng;

use super::make::Moment;

/// Now, with a serial number that nobody else has.
pub(super) fn moment() -> Moment {
    let mut dice = rand::rng();
    Moment {
        now_s: now_ms().0 / 1000,
        serial: u128::from(dice.next_u64()) << 64 | u128::from(dice.next_u64()),
    }
}
