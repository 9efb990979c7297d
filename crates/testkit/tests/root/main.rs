//! Everything that needs root: a real installation, real boundaries, attacks from inside.

mod attacks;
mod bad_input;
mod cli;
mod exhaustion;
mod faults;
mod images;
mod intruder;
mod neighbours;
mod story;
mod works;
