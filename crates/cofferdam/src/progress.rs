//! What is going on, on stderr: a spinner or a bar on a terminal, plain lines elsewhere. Never on stdout.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// One thing that takes time. Gone from the terminal once it is dropped or done.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
}

const TICK: Duration = Duration::from_millis(120);

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress {
    /// Starts with a spinner. `quiet` says nothing where there is no terminal.
    fn new(message: &str, quiet: bool) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(style("{spinner:.cyan} {msg} {elapsed:.dim}"));
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(TICK);
        if plain && !quiet {
            eprintln!("{message}");
        }
        Self { bar, plain: plain && !quiet }
    }

    /// Something that often takes seconds: a line also where there is no terminal.
    pub fn start(message: &str) -> Self {
        Self::new(message, false)
    }

    /// Something that is mostly quick: only a terminal sees it.
    pub fn brief(message: &str) -> Self {
        Self::new(message, true)
    }

    /// Says what is being done now.
    pub fn stage(&self, message: &str) {
        if self.plain && self.bar.message() != message {
            eprintln!("{message}");
        }
        self.bar.set_message(message.to_owned());
    }

    /// Shows a percentage, or a spinner where the end is not known.
    pub fn percent(&self, percent: Option<u8>) {
        match percent {
            Some(percent) => {
                self.bar.set_length(100);
                self.bar.set_style(style("{spinner:.cyan} {msg} [{bar:30.cyan/dim}] {pos}% {elapsed:.dim}"));
                self.bar.set_position(u64::from(percent));
            }
            None => self.bar.set_style(style("{spinner:.cyan} {msg} {elapsed:.dim}")),
        }
    }

    /// Counts bytes; a bar when the whole is known.
    pub fn bytes(&self, whole: Option<u64>) {
        if let Some(whole) = whole {
            self.bar.set_length(whole);
            self.bar.set_style(style(
                "{spinner:.cyan} {msg} [{bar:30.cyan/dim}] {bytes}/{total_bytes} {bytes_per_sec:.dim}",
            ));
        } else {
            self.bar.set_style(style("{spinner:.cyan} {msg} {bytes} {bytes_per_sec:.dim}"));
        }
    }

    /// Whether somebody sees it move.
    pub fn is_terminal(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// A handle that other threads count on.
    pub fn counter(&self) -> impl Fn(u64) + Clone + Send + 'static {
        let bar = self.bar.clone();
        move |bytes| bar.inc(bytes)
    }

    /// Takes it off the terminal.
    pub fn done(self) {
        self.bar.finish_and_clear();
    }

    /// Stops drawing without an end: what follows belongs to somebody else's output.
    pub fn hide(&self) {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
