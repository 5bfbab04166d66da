//! kill -9, power cut, full disk: nothing acknowledged is lost.
