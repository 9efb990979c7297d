//! Names that nobody chose: of agents that were given none, and of people's own accounts.

use crate::auth::secret::NoRandomness;
use model::Name;
use model::people::Email;

const ADJECTIVES: [&str; 24] = [
    "able", "amber", "bold", "brisk", "calm", "clever", "crisp", "dry", "eager", "early", "fair", "fleet",
    "gentle", "keen", "light", "lucid", "merry", "neat", "nimble", "quiet", "ready", "steady", "swift",
    "warm",
];
const NOUNS: [&str; 24] = [
    "anchor", "barge", "beacon", "bridge", "buoy", "canal", "cove", "delta", "dock", "ferry", "harbor",
    "heron", "island", "jetty", "keel", "lagoon", "lock", "otter", "pier", "quay", "reef", "river", "sluice",
    "tide",
];

/// A name nobody chose: `calm-otter-4821`.
pub(crate) fn made_up() -> Result<Name, NoRandomness> {
    let random = getrandom::u64().map_err(|_| NoRandomness)?;
    let pick = |words: &[&'static str], bits: u64| words[(bits % words.len() as u64) as usize];
    let (adjective, noun) = (pick(&ADJECTIVES, random & 0xffff), pick(&NOUNS, random >> 16 & 0xffff));
    let name = format!("{adjective}-{noun}-{:04}", (random >> 32) % 10_000);
    Ok(name.parse().expect("made of lowercase words and digits"))
}

/// A name for the account of a person with this address: what stands before the `@` as far as it can be one. From the second try on
/// it has a number behind it.
pub(crate) fn personal(email: &Email, again: bool) -> Result<Name, NoRandomness> {
    let usual = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let local = email.local().chars().map(usual).skip_while(|c| !c.is_ascii_lowercase()).take(30);
    let local: String = local.collect();
    let base = if local.is_empty() { "person" } else { local.trim_end_matches('-') };
    let random = getrandom::u64().map_err(|_| NoRandomness)?;
    let name = if again { format!("{base}-{:06}", random % 1_000_000) } else { base.to_owned() };
    Ok(name.parse().expect("made of lowercase letters, digits and hyphens"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_people_are_called_like_them() {
        for (email, expected) in [
            ("ada@example.com", "ada"),
            ("Ada.Lovelace+x@example.com", "ada-lovelace-x"),
            ("1815@example.com", "person"),
            ("42ada_@example.com", "ada"),
        ] {
            let email: Email = email.parse().unwrap();
            assert_eq!(personal(&email, false).unwrap().as_str(), expected);
            let another = personal(&email, true).unwrap();
            assert!(another.as_str().starts_with(expected) && another.as_str().len() == expected.len() + 7);
        }
        let long: Email = format!("{}@example.com", "a".repeat(64)).parse().unwrap();
        assert!(personal(&long, true).is_ok());
    }
}
