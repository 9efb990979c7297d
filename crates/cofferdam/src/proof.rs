//! What a person is asked for: a new password, and a proof that it is still them.

use crate::failure::{fail, fail_with};
use crate::{clean, keyboard, terminal};
use client::Prover;
use model::Code;
use model::people::{MIN_PASSWORD, Prove};
use model::secret::SecretValue;
use std::io::IsTerminal;
use std::sync::Arc;

/// Asks at a terminal; elsewhere nobody is there.
pub fn prover() -> Prover {
    Arc::new(|server: &str| {
        if !std::io::stdin().is_terminal() || !keyboard::is_ours() {
            return None;
        }
        eprintln!("cofferdam: {} asks whether it is still you.", clean::text(server));
        let typed = terminal::read_password("Password, or a code of the second factor: ").ok()?;
        proof_of(typed)
    })
}

/// What was typed. Codes have six digits, and may have a blank in their middle; passwords are longer than that.
fn proof_of(typed: SecretValue) -> Option<Prove> {
    let text = typed.expose();
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let code =
        text.len() < MIN_PASSWORD && digits == 6 && text.bytes().all(|c| c.is_ascii_digit() || c == b' ');
    match text {
        "" => None,
        _ if code => Some(Prove { password: None, code: Some(typed) }),
        _ => Some(Prove { password: Some(typed), code: None }),
    }
}

/// Asks for a password that is there already.
pub fn password(prompt: &str) -> anyhow::Result<SecretValue> {
    some(terminal::read_password(prompt)?, "password")
}

/// Asks for a password that is chosen: twice at a terminal, where nobody sees a slip of the finger.
pub fn new_password() -> anyhow::Result<SecretValue> {
    let chosen = some(terminal::read_password("New password (8 characters or more): ")?, "password")?;
    if std::io::stdin().is_terminal() && terminal::read_password("The same again: ")? != chosen {
        return Err(fail(Code::Validation, "These are two different ones. Nothing was changed."));
    }
    Ok(chosen)
}

/// Asks for a token that somebody was sent, or a code: without the blanks around it.
pub fn token(prompt: &str, what: &str) -> anyhow::Result<SecretValue> {
    some(SecretValue::new(terminal::read_secret(prompt)?), what)
}

fn some(given: SecretValue, what: &str) -> anyhow::Result<SecretValue> {
    if !given.expose().is_empty() {
        return Ok(given);
    }
    let remedy = "type it at a terminal, or put it on stdin, a line each";
    Err(fail_with(Code::Validation, format!("There is no {what}."), remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_passwords_are_told_apart() {
        let check = |typed: &str, expected: Option<bool>| {
            let proof = proof_of(SecretValue::new(typed.to_owned()));
            assert_eq!(proof.map(|proof| proof.code.is_some()), expected, "{typed:?}");
        };
        check("", None);
        for code in ["123456", "123 456", " 123456"] {
            check(code, Some(true));
        }
        for password in ["12345678", "1 2 3 4 5 6", "12345", "12345a", "correct horse"] {
            check(password, Some(false));
        }
    }
}
