//! The person's terminal: raw mode that is always undone, its size, and the keys that leave a session.

use model::secret::SecretValue;
use model::workspace::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};

/// What the terminal was before; also what says that there is something to undo.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Undoes what a program inside may have left on: scroll region and attributes (DECSTR), mouse reports,
/// bracketed paste, focus reports, a hidden cursor.
const SOFT_RESET: &[u8] =
    b"\x1b[!p\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[0m";

/// Raw mode, for as long as it lives.
pub struct Raw(());

impl Raw {
    /// Switches stdin's terminal to raw mode.
    pub fn enter() -> std::io::Result<Self> {
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                report(info);
            }));
        });
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was. Does nothing when it was not changed.
pub fn restore() {
    let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let mut stdout = std::io::stdout();
    if stdout.is_terminal() {
        let _ = stdout.write_all(SOFT_RESET).and_then(|()| stdout.flush());
    }
    let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
}

/// The size of the terminal that stdout (or stdin) is. One that nobody told its size has that of the first ones.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    let or = |told: u16, usual| if told > 0 { told } else { usual };
    Some(TerminalSize { rows: or(size.ws_row, 24), cols: or(size.ws_col, 80) })
}

/// Reads a secret: without echo from a terminal, else one line. Blanks around it are none of it.
pub fn read_secret(prompt: &str) -> std::io::Result<String> {
    Ok(read_password(prompt)?.expose().trim().to_owned())
}

/// The same with the blanks around it.
pub fn read_password(prompt: &str) -> std::io::Result<SecretValue> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return read_line(&stdin);
    }
    eprint!("{prompt}");
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
    tcsetattr(&stdin, OptionalActions::Drain, &silent)?;
    let outcome = read_line(&stdin);
    tcsetattr(&stdin, OptionalActions::Drain, &before)?;
    *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    eprintln!();
    outcome
}

fn read_line(stdin: &std::io::Stdin) -> std::io::Result<SecretValue> {
    // With room for any password from the start: a buffer that grows leaves copies behind.
    let mut line = String::with_capacity(4096);
    let outcome = stdin.read_line(&mut line);
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    // Taken over before anything can fail, so that it is overwritten.
    let line = SecretValue::new(line);
    outcome.map(|_| line)
}

/// Looks for ctrl-p ctrl-q in what is typed.
#[derive(Debug, Default)]
pub struct DetachKeys {
    /// ctrl-p was typed and is held back.
    held: bool,
}

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

impl DetachKeys {
    /// What of the input goes on, and whether the keys were typed.
    pub fn push(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut on = Vec::with_capacity(input.len() + 1);
        for &byte in input {
            match (self.held, byte) {
                (true, CTRL_Q) => return (on, true),
                (false, CTRL_P) => self.held = true,
                (true, CTRL_P) => on.push(CTRL_P),
                (held, byte) => {
                    if held {
                        on.push(CTRL_P);
                    }
                    self.held = false;
                    on.push(byte);
                }
            }
        }
        (on, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        /// What is typed, piece by piece; what of it goes on; whether the keys were in it.
        type Case = (&'static [&'static [u8]], &'static [u8], bool);
        let cases: &[Case] = &[
            (&[b"plain"], b"plain", false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"\x10x"], b"\x10x", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11"], b"\x11", false),
        ];
        for (pieces, expected, left) in cases {
            let mut keys = DetachKeys::default();
            let mut on = Vec::new();
            let mut detached = false;
            for piece in *pieces {
                let (more, done) = keys.push(piece);
                on.extend(more);
                detached |= done;
            }
            assert_eq!((&*on, detached), (*expected, *left), "{pieces:?}");
        }
    }
}
