mod calls;
mod cluster;
mod faults;
mod machine;
mod members;
mod several;
mod single;
mod suite;
