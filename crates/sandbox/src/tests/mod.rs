//! What is read from the kernel's tables, by table; and, as root, the parts one by one.

mod kernel;
mod parts;
