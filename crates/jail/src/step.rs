//! What was attempted when it failed.

use crate::sys::mount::Explained;
use serde::{Deserialize, Serialize};
use std::io;

/// One step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// What was attempted, as a phrase.
    pub step: String,
    /// `errno`, 0 where none fits.
    pub errno: i32,
    /// What is known besides; may be empty.
    pub detail: String,
}

impl StepError {
    /// A step that failed for a reason of our own.
    pub fn new(step: &str, detail: &str) -> Self {
        Self { step: step.into(), errno: 0, detail: detail.into() }
    }
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} failed", self.step)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for StepError {}

/// Names the step that a system call belongs to.
pub trait Step<T> {
    /// Turns an error into one that says what was attempted.
    fn step(self, name: &str) -> Result<T, StepError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, name: &str) -> Result<T, StepError> {
        self.map_err(|error| {
            let explained = error.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
            let (errno, detail) = match explained {
                Some(Explained { errno, text }) => (*errno, text.clone()),
                None => match error.raw_os_error() {
                    Some(errno) => (errno, String::new()),
                    None => (0, error.to_string()),
                },
            };
            StepError { step: name.into(), errno, detail }
        })
    }
}
