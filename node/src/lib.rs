//! Configuration, wiring and admin endpoint: the only place that knows every concrete type.
