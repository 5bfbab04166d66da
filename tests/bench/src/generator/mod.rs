//! Load generators that cost next to nothing, so that the server is what is measured. All speak the plain protocol over
//! blocking sockets, one thread for each connection.

pub mod connection;
pub mod fetch;
pub mod outcome;
pub mod paced;
pub mod prepared;
