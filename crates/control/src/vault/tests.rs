//! A ciphertext opens in its own place alone, and keys that wrap are believed only where they are safe.

use super::*;
use crate::Config;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

struct World {
    config: Config,
    vault: Vault,
    _directory: tempfile::TempDir,
}

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { data: directory.path().to_owned(), ..Config::default() };
    let vault = Vault::open(&config, &[]).unwrap();
    World { config, vault, _directory: directory }
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.to_owned())
}

fn refused<T>(result: Result<T, VaultError>) -> bool {
    matches!(result, Err(VaultError::Refused))
}

#[test]
fn a_value_opens_where_it_was_written_and_nowhere_else() {
    let vault = world().vault;
    let (account, secret) = (AccountId::new(), SecretId::new());
    let own = vault.make(account).unwrap();
    let key = vault.open_key(&own).unwrap();
    let sealed = key.encrypt(secret, 3, &value("the value")).unwrap();
    assert_eq!(key.decrypt(secret, 3, &sealed).unwrap().expose(), "the value");
    assert!(refused(key.decrypt(SecretId::new(), 3, &sealed)), "another secret");
    assert!(refused(key.decrypt(secret, 2, &sealed)), "another version");
    assert!(refused(key.decrypt(secret, 31, &sealed)), "another version");

    // Another account: under its own key, under the same key passed off as its own, and with the row of the first.
    let other = vault.make(AccountId::new()).unwrap();
    assert!(refused(vault.open_key(&other).unwrap().decrypt(secret, 3, &sealed)));
    assert!(vault.open_key(&DataKey { account: other.account, ..own.clone() }).is_err());
    assert!(vault.open_key(&DataKey { id: other.id, ..own.clone() }).is_err());
    assert!(vault.open_key(&DataKey { wrapped: other.wrapped, ..own.clone() }).is_err());
    assert!(matches!(
        vault.open_key(&DataKey { wrapped_by: "another".to_owned(), ..own.clone() }),
        Err(VaultError::Locked)
    ));
    for wrapped in [Vec::new(), vec![0; 12], vec![0; 60]] {
        assert!(vault.open_key(&DataKey { wrapped, ..own.clone() }).is_err());
    }
    // Another installation, whose key has another id; and one that claims the same.
    assert!(matches!(world().vault.open_key(&own), Err(VaultError::Locked)));
    let elsewhere = world().vault;
    assert!(refused(elsewhere.open_key(&DataKey { wrapped_by: elsewhere.wraps_by(), ..own }).map(drop)));
}

#[test]
fn two_rows_cannot_be_swapped() {
    let vault = world().vault;
    let key = vault.open_key(&vault.make(AccountId::new()).unwrap()).unwrap();
    let (one, two) = (SecretId::new(), SecretId::new());
    let first = key.encrypt(one, 1, &value("first")).unwrap();
    let second = key.encrypt(two, 1, &value("second")).unwrap();
    assert_ne!(first.nonce, second.nonce);
    assert!(refused(key.decrypt(one, 1, &second)) && refused(key.decrypt(two, 1, &first)));
    let mixed = Encrypted { nonce: second.nonce.clone(), ..first.clone() };
    assert!(refused(key.decrypt(one, 1, &mixed)));
    let again = key.encrypt(one, 1, &value("first")).unwrap();
    assert!(again.ciphertext != first.ciphertext, "the same value looks different each time");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_bit_counts(text in "\\PC{1,200}", at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let vault = world().vault;
        let secret = SecretId::new();
        let key = vault.open_key(&vault.make(AccountId::new()).unwrap()).unwrap();
        let sealed = key.encrypt(secret, 1, &value(&text)).unwrap();
        let opened = key.decrypt(secret, 1, &sealed).unwrap();
        prop_assert_eq!(opened.expose(), text.as_str());
        prop_assert!(!sealed.ciphertext.windows(text.len()).any(|window| window == text.as_bytes()) || text.len() < 4);
        let mut bent = sealed.clone();
        let index = at.index(bent.ciphertext.len());
        bent.ciphertext[index] ^= 1 << bit;
        prop_assert!(refused(key.decrypt(secret, 1, &bent)));
        let mut bent = sealed.clone();
        let index = at.index(bent.nonce.len());
        bent.nonce[index] ^= 1 << bit;
        prop_assert!(refused(key.decrypt(secret, 1, &bent)));
        let mut short = sealed;
        short.ciphertext.truncate(at.index(short.ciphertext.len()));
        prop_assert!(refused(key.decrypt(secret, 1, &short)));
    }
}

#[test]
fn nothing_of_a_value_is_in_an_error() {
    let vault = world().vault;
    let key = vault.open_key(&vault.make(AccountId::new()).unwrap()).unwrap();
    let sealed = key.encrypt(SecretId::new(), 1, &value("hunter2-hunter2")).unwrap();
    let error = key.decrypt(SecretId::new(), 1, &sealed).unwrap_err();
    assert!(!format!("{error} {error:?} {sealed:?}").contains("hunter2"));
    assert_eq!(format!("{:?}", value("hunter2")), "SecretValue");
}

#[test]
fn fingerprints_need_the_key() {
    let vault = world().vault;
    let key = vault.open_key(&vault.make(AccountId::new()).unwrap()).unwrap();
    let other = vault.open_key(&vault.make(AccountId::new()).unwrap()).unwrap();
    assert_eq!(key.fingerprint(b"x"), key.fingerprint(b"x"));
    assert_ne!(key.fingerprint(b"x"), key.fingerprint(b"y"));
    assert_ne!(key.fingerprint(b"x"), other.fingerprint(b"x"));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_file_is_made_once_and_for_us_alone() {
    let world = world();
    let path = world.config.secrets_key();
    assert_eq!(mode(&path), 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let key = world.vault.make(AccountId::new()).unwrap();
    let needed = [key.wrapped_by.clone()];
    let again = Vault::open(&world.config, &needed).unwrap();
    assert!(again.open_key(&key).is_ok());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let spelled: String = text.lines().filter_map(|line| line.strip_prefix("cofk_")).collect();
    assert!(spelled.len() == 43 && !needed[0].contains(&spelled[..8]), "an id tells nothing of its key");
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let world = world();
    let path = world.config.secrets_key();
    for bits in [0o640, 0o604, 0o660, 0o602, 0o610] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
        let error = Vault::open(&world.config, &[]).err().unwrap();
        assert!(
            matches!(error, KeyError::Loose { .. }) && error.to_string().contains("chmod 600"),
            "{error}"
        );
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
    assert!(Vault::open(&world.config, &[]).is_ok());
    // Nor is one believed that somebody has laid a link to.
    let elsewhere = world.config.data.join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(matches!(Vault::open(&world.config, &[]), Err(KeyError::File { .. })));
}

#[test]
fn a_file_that_is_lost_or_another_is_not_made_anew() {
    let world = world();
    let path = world.config.secrets_key();
    let needed = [world.vault.wraps_by()];
    std::fs::remove_file(&path).unwrap();
    let said = Vault::open(&world.config, &needed).err().unwrap().to_string();
    assert!(said.contains(&needed[0]) && !path.exists(), "{said}");
    assert!(Vault::open(&world.config, &[]).is_ok());
    let said = Vault::open(&world.config, &needed).err().unwrap();
    assert!(matches!(said, KeyError::Lost { .. }), "another key was made meanwhile");
    for text in [
        "",
        "nonsense",
        "cofk_AAAA",
        "# only a comment\n",
        "cofk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA extra",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Vault::open(&world.config, &[]).err().unwrap();
        assert!(matches!(error, KeyError::NotKeys { .. }), "{text:?}: {error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "it is not replaced");
    }
}

#[test]
fn a_turn_of_the_ring_reads_everything_all_the_time() {
    let world = world();
    let (vault, account) = (&world.vault, AccountId::new());
    let before = vault.make(account).unwrap();
    let first = vault.wraps_by();
    let second = vault.begin_turn().unwrap();
    assert!(first != second && vault.has_older() && vault.wraps_by() == second);
    assert!(vault.open_key(&before).is_ok());
    // A crash here: both keys are on disk.
    let vault = Vault::open(&world.config, &[first.clone(), second.clone()]).unwrap();
    assert_eq!((vault.wraps_by(), vault.has_older()), (second.clone(), true));
    let after = vault.wrap_anew(&before).unwrap();
    assert_eq!((after.id, after.wrapped_by.as_str()), (before.id, second.as_str()));
    let (secret, text) = (SecretId::new(), value("kept"));
    let sealed = vault.open_key(&before).unwrap().encrypt(secret, 1, &text).unwrap();
    vault.end_turn().unwrap();
    assert!(!vault.has_older() && matches!(vault.open_key(&before), Err(VaultError::Locked)));
    let vault = Vault::open(&world.config, &[second]).unwrap();
    assert!(vault.open_key(&after).unwrap().decrypt(secret, 1, &sealed).unwrap() == text);
    assert!(matches!(Vault::open(&world.config, &[first]), Err(KeyError::Lost { .. })));
    assert_eq!(mode(&world.config.secrets_key()), 0o600);
}

#[test]
fn a_credential_is_read_and_never_made() {
    let world = world();
    let path = world.config.data.join("credential");
    let place = Place::Credential(path.clone());
    assert!(matches!(place.open(&[]), Err(KeyError::File { .. })) && !path.exists());
    std::fs::copy(world.config.secrets_key(), &path).unwrap();
    // systemd looks after who reads it: what it shows as mode has an access control list behind it.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o440)).unwrap();
    assert_eq!(place.open(&[]).unwrap().first().id, world.vault.wraps_by());
    assert!(!place.is_ours());
}
