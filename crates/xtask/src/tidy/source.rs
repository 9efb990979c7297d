//! Rules about source files: their size, their heads, where `unsafe` and SQL may stand, and words that must not be there.

use super::Fault;

/// Above this, a file is split by meaning.
const MAX_LINES: usize = 800;
/// How far above an `unsafe` block its reason may begin.
const SAFETY_REACH: usize = 8;

/// A file, taken apart just far enough: a full parser would be a dependency larger than all of these rules.
pub(super) struct Source {
    name: String,
    lines: Vec<String>,
    /// The same lines with comments and the insides of literals blanked.
    code: Vec<String>,
    /// String literals with the line that each begins on.
    strings: Vec<(usize, String)>,
}

pub(super) fn check(source: &Source) -> Vec<Fault> {
    let rules: [fn(&Source) -> Vec<Fault>; 5] = [head, length, unsafe_blocks, sql, words];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn head(source: &Source) -> Vec<Fault> {
    // The tests of a module are told from it by their name alone.
    if source.name.ends_with("/tests.rs") || source.name.contains("/src/tests/") {
        return Vec::new();
    }
    let first = source.lines.iter().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    match first {
        Some(line) if line.starts_with("//!") => Vec::new(),
        _ => vec![source.fault(0, "begins with `//!`: what it is, and what it never does")],
    }
}

fn length(source: &Source) -> Vec<Fault> {
    let count = source.lines.len();
    if count <= MAX_LINES {
        return Vec::new();
    }
    vec![source.fault(count - 1, &format!("has {count} lines; above {MAX_LINES}, split it by meaning"))]
}

fn unsafe_blocks(source: &Source) -> Vec<Fault> {
    let home = ["crates/jail/", "crates/sandbox/src/host/", "crates/sandbox/src/host.rs"];
    let at_home = home.iter().any(|prefix| source.name.starts_with(prefix));
    let mut faults = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        for after in words_after(line, "unsafe") {
            if !at_home {
                faults.push(source.fault(index, "`unsafe` lives in jail and in sandbox/src/host alone"));
            }
            // Declarations say in their documentation what a caller must see to; blocks and impls say why it is so.
            let opens = after.trim_start();
            let needs_reason = opens.starts_with('{') || opens.starts_with("impl");
            let above = &source.lines[index.saturating_sub(SAFETY_REACH)..=index];
            if needs_reason && !above.iter().any(|line| line.contains("SAFETY:")) {
                faults.push(source.fault(index, "`unsafe` without a `// SAFETY:` comment before it"));
            }
        }
    }
    faults
}

/// What follows each occurrence of a whole word.
fn words_after<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).filter_map(move |(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        (!before.ends_with(part) && !after.starts_with(part)).then_some(after)
    })
}

fn sql(source: &Source) -> Vec<Fault> {
    const STATEMENTS: [(&str, &str); 6] = [
        ("SELECT ", " FROM "),
        ("INSERT INTO ", ""),
        ("UPDATE ", " SET "),
        ("DELETE FROM ", ""),
        ("CREATE TABLE ", ""),
        ("ALTER TABLE ", ""),
    ];
    // The testkit goes behind the store's back on purpose, to see that the database itself says no.
    let at_home = ["crates/store/", "crates/testdb/", "crates/testkit/", "crates/xtask/"];
    if at_home.iter().any(|prefix| source.name.starts_with(prefix)) {
        return Vec::new();
    }
    let is_statement = |text: &str| {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        STATEMENTS.iter().any(|(start, then)| text.starts_with(start) && text.contains(then))
    };
    let found = source.strings.iter().filter(|(_, text)| is_statement(text));
    found.map(|(line, _)| source.fault(*line, "only the store has SQL")).collect()
}

fn words(source: &Source) -> Vec<Fault> {
    // Spelled in halves, so that this file passes its own rule.
    let forbidden: [(String, &str); 6] = [
        (["TO", "DO"].concat(), "finish it, or make it an issue"),
        (["FIX", "ME"].concat(), "fix it, or make it an issue"),
        (["To be", " written."].concat(), "write it"),
        (["todo", "!("].concat(), "finish it"),
        (["db", "g!("].concat(), "remove it"),
        (["/wo", "rk/"].concat(), "a path of one machine"),
    ];
    let mut faults = Vec::new();
    for (index, line) in source.lines.iter().enumerate() {
        for (word, remedy) in &forbidden {
            if line.contains(word.as_str()) {
                faults.push(source.fault(index, &format!("`{word}`: {remedy}")));
            }
        }
    }
    faults
}

impl Source {
    fn fault(&self, index: usize, what: &str) -> Fault {
        Fault::new(format!("{}:{}", self.name, index + 1), what)
    }

    pub(super) fn parse(name: &str, text: &str) -> Self {
        let mut scan =
            Scan { rest: text, line: 0, code: String::with_capacity(text.len()), strings: Vec::new() };
        scan.run();
        Self {
            name: name.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            code: scan.code.lines().map(str::to_owned).collect(),
            strings: scan.strings,
        }
    }
}

/// Walks through Rust source and tells code from comments and literals; see the reference, chapter "Tokens".
struct Scan<'a> {
    rest: &'a str,
    line: usize,
    code: String,
    strings: Vec<(usize, String)>,
}

impl Scan<'_> {
    fn run(&mut self) {
        while let Some(next) = self.rest.chars().next() {
            let previous = self.code.chars().next_back().unwrap_or(' ');
            let in_word = previous.is_alphanumeric() || previous == '_';
            if self.rest.starts_with("//") {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.blank(end);
            } else if self.rest.starts_with("/*") {
                let end = block_comment(self.rest);
                self.blank(end);
            } else if next == '"' {
                let end = quoted(self.rest);
                self.literal(1, end.saturating_sub(1), end);
            } else if let Some(hashes) = raw_string(self.rest).filter(|_| !in_word) {
                let start = self.rest.find('"').map_or(0, |at| at + 1);
                let close = format!("\"{}", "#".repeat(hashes));
                let inner = self.rest[start..].find(&close).map_or(self.rest.len(), |at| start + at);
                self.literal(start, inner, (inner + close.len()).min(self.rest.len()));
            } else if next == '\'' {
                let end = character(self.rest);
                self.blank(end);
            } else {
                self.line += usize::from(next == '\n');
                self.code.push(next);
                self.rest = &self.rest[next.len_utf8()..];
            }
        }
    }

    /// Passes over what is no code, keeping lines as they are.
    fn blank(&mut self, end: usize) {
        for c in self.rest[..end].chars() {
            self.line += usize::from(c == '\n');
            self.code.push(if c == '\n' { '\n' } else { ' ' });
        }
        self.rest = &self.rest[end..];
    }

    fn literal(&mut self, start: usize, inner: usize, end: usize) {
        self.strings.push((self.line, self.rest[start.min(inner)..inner].to_owned()));
        self.blank(end);
    }
}

/// The end of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The end of a string in quotes, escapes understood.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// How many `#` a raw string begins with, if this is one.
fn raw_string(text: &str) -> Option<usize> {
    let after = ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The end of a character literal; of a lifetime, only its tick.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => {
            // `'\''` and `'\u{1f980}'`: the tick after the escaped character closes it.
            text[3..].find('\'').map_or(text.len(), |at| 3 + at + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}
