//! Questions that a typed word answers.

use crate::failure::{fail, fail_with};
use model::Code;
use std::io::IsTerminal;

/// Tells what is about to happen, and goes on only if somebody at a terminal types the word.
pub fn word(word: &str, about: &str) -> anyhow::Result<()> {
    word_or(word, about, "--yes answers for scripts")
}

/// The same, with what to do where nobody is.
pub fn word_or(word: &str, about: &str, scripts: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        let nobody = format!("Nobody is here to confirm this with the word {word}.");
        return Err(fail_with(Code::Validation, nobody, scripts));
    }
    eprintln!("{about}");
    eprint!("Type the word {word} to go on: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == word { Ok(()) } else { Err(fail(Code::Validation, "Nothing was changed.")) }
}
