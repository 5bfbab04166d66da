//! How long a link really takes.

mod driver;

pub(crate) use driver::round_trip;
