//! A terminal with the command line at it, as a test sees it.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What should happen happens within this time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with the command line at it.
pub struct Terminal {
    keyboard: ChildStdin,
    child: Child,
    shown: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// What was looked for and found ends here.
    past: usize,
}

impl Terminal {
    /// Starts a command at a terminal, which script(1) makes.
    pub fn start(command: &Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut script = Command::new("script");
        script.args(["-qfec", &format!("exec {}", quoted.join(" ")), "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().expect("script(1), of the package bsdutils");
        let keyboard = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let (pieces, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                if pieces.send(piece[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keyboard, child, shown, seen: Vec::new(), past: 0 }
    }

    /// All that it showed.
    pub fn seen(&mut self) -> String {
        while let Ok(piece) = self.shown.try_recv() {
            self.seen.extend(piece);
        }
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until it shows this, behind what was waited for before.
    pub fn shows(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            let seen = self.seen();
            if let Some(at) = seen.get(self.past..).and_then(|rest| rest.find(text)) {
                self.past += at + text.len();
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{text:?} is not shown: {seen:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).and_then(|()| self.keyboard.flush()).unwrap();
    }

    /// Waits for the end; the exit code.
    pub fn ends(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.seen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
