//! Everything that needs root: a real installation, real boundaries, attacks from inside.

mod attacks;
mod authority;
mod bad_input;
mod beside;
mod blanks;
mod cli;
mod clients;
mod doors;
mod drivers;
mod egress;
mod evidence;
mod exhaustion;
mod faults;
mod held;
mod images;
mod intruder;
mod leaving;
mod levels;
mod mass;
mod neighbours;
mod openapi;
mod secrets;
mod story;
mod verify;
mod works;
mod workspaces;
