//! Names for agents that were given none.

use crate::auth::secret::NoRandomness;
use model::Name;

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
