//! Passwords that are tried first: words that many people take, with what they put in front, behind or in place of letters; and what a finger
//! finds on a keyboard. A short list of words stands for the long one of their variants.

/// Words, in lower case, in alphabetical order.
const WORDS: &str = include_str!("common.txt");
const ROWS: [&str; 6] = ["1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop"];
/// What columns of a keyboard give.
const COLUMNS: [&str; 3] = ["1qaz2wsx3edc4rfv5tgb6yhn", "1q2w3e4r5t6y7u8i9o0p", "qazwsxedcrfvtgbyhnujm"];

/// Whether a password is one of them.
pub(super) fn is_common(text: &str) -> bool {
    let lower: Vec<char> = text.to_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    is_worn(&lower) || is_stepped(&lower) || is_typed(&lower) || is_word(&lower)
}

/// One short thing again and again.
fn is_worn(text: &[char]) -> bool {
    (1..=4).any(|length| text.len() > length && text.chunks(length).all(|chunk| text.starts_with(chunk)))
}

/// Each character as far from the one before: `12345678`, `hgfedcba`.
fn is_stepped(text: &[char]) -> bool {
    let step = |pair: &[char]| i64::from(u32::from(pair[1])) - i64::from(u32::from(pair[0]));
    let mut steps = text.windows(2).map(step);
    let first = steps.next().unwrap_or(0);
    first.abs() <= 2 && steps.all(|step| step == first)
}

/// A piece of a row or a column of a keyboard, in either direction.
fn is_typed(text: &[char]) -> bool {
    let forward: String = text.iter().collect();
    let backward: String = text.iter().rev().collect();
    let covered = |text: &str| {
        // Up to three pieces, such as `qwertyasdfgh`.
        let mut rest = text;
        for _ in 0..3 {
            let longest = (4..=rest.len()).rev().find(|&length| {
                rest.get(..length)
                    .is_some_and(|piece| ROWS.iter().chain(&COLUMNS).any(|row| row.contains(piece)))
            });
            match longest {
                Some(length) => rest = &rest[length..],
                None => return false,
            }
            if rest.len() < 3 {
                return true;
            }
        }
        false
    };
    covered(&forward) || covered(&backward)
}

/// A word of the list, whatever stands around it that is no letter, and with digits and signs in place of letters that look alike.
fn is_word(text: &[char]) -> bool {
    let bare = |text: &[char]| -> String {
        let from = text.iter().position(|c| c.is_alphabetic()).unwrap_or(text.len());
        let to = text.iter().rposition(|c| c.is_alphabetic()).map_or(from, |at| at + 1);
        text[from..to].iter().collect()
    };
    let read = |text: &str, one: char| -> String {
        text.chars()
            .map(|c| match c {
                '0' => 'o',
                '1' | '!' | '|' => one,
                '3' => 'e',
                '4' | '@' => 'a',
                '5' | '$' => 's',
                '7' => 't',
                other => other,
            })
            .collect()
    };
    let whole: String = text.iter().collect();
    let candidates = [bare(text), read(&bare(text), 'i'), read(&bare(text), 'l')];
    // `p@ssw0rd` begins with a letter; `@dmin` does not.
    let signs = whole.trim_matches(|c: char| c.is_ascii_digit());
    let others = [read(signs, 'i'), read(signs, 'l')];
    candidates
        .iter()
        .chain(&others)
        .any(|word| word.len() >= 3 && is_listed(word.trim_matches(|c: char| !c.is_alphabetic())))
}

fn is_listed(word: &str) -> bool {
    let listed = |word: &str| WORDS.lines().any(|line| line == word);
    // `passwordpassword`.
    let half = word.get(..word.len() / 2).filter(|half| word.get(half.len()..) == Some(half));
    listed(word) || half.is_some_and(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_of_plain_words() {
        let words: Vec<&str> = WORDS.lines().collect();
        assert!(words.len() > 250);
        assert!(words.is_sorted(), "{:?}", words.windows(2).find(|pair| pair[0] >= pair[1]));
        assert!(
            words.iter().all(|word| word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        );
    }

    #[test]
    fn variants_are_found() {
        for text in [
            "password1",
            "P@ssw0rd!",
            "@dmin1234",
            "123monkey123",
            "dr4g0n!!",
            "sunshine2019",
            "qwerty12345",
            "1q2w3e4r",
            "zxcvbnm123",
            "11111111",
            "asdfasdf",
            "lkjhgfdsa",
            "qwertyasdfgh",
            "welcome 1 2 3",
            "adminadmin",
            "h3ll0w0rld",
        ] {
            assert!(is_common(text), "{text}");
        }
        for text in ["winterthur-nord", "p0lymer gauge", "nine lives left", "x9!kd02-la", "mississippi mud"] {
            assert!(!is_common(text), "{text}");
        }
    }
}
