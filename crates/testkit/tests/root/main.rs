//! Everything that needs root: a real installation, real boundaries, attacks from inside.

mod attacks;
mod bad_input;
mod exhaustion;
mod faults;
mod intruder;
mod neighbours;
mod story;
mod works;
