//! Configuration files: one strict struct for each process, and every fault found before any is reported.

use serde::de::DeserializeOwned;
use std::fmt;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `limits.memory`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

/// On one line: it also ends in logs and in the middle of sentences.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let between = if index > 0 { "; " } else { "" };
            write!(f, "{between}{}: {}", fault.key, fault.detail)?;
        }
        Ok(())
    }
}

/// A configuration whose values can be out of bounds though each has the right type.
pub trait Checked: DeserializeOwned {
    /// What the text is called where no key is at fault, such as `node.toml`.
    const FILE: &'static str;
    /// The keys that are tables themselves.
    const TABLES: &'static [&'static str];

    /// What is out of bounds.
    fn faults(&self) -> Vec<Fault>;

    /// Checks the values, whichever way they came.
    fn validate(&self) -> Result<(), ConfigError> {
        let faults = self.faults();
        if faults.is_empty() { Ok(()) } else { Err(ConfigError { faults }) }
    }

    /// Reads a file's text. Unknown keys, wrong types and values out of bounds are all reported at once. What is in
    /// `defaults` goes before the defaults of the type.
    fn read(text: &str, defaults: toml::Table) -> Result<Self, ConfigError> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let detail = format!("line {line} is no TOML: {}", one_line(error.message()));
            ConfigError { faults: vec![Fault { key: Self::FILE.to_owned(), detail }] }
        })?;
        // Each key alone over the defaults: so one bad key does not hide the next.
        let mut faults: Vec<Fault> = flatten(&table, Self::TABLES)
            .into_iter()
            .filter_map(|(key, lone)| {
                let error = Self::deserialize(toml::Value::Table(lone)).err()?;
                Some(Fault { key, detail: one_line(error.message()) })
            })
            .collect();
        for (key, value) in defaults {
            table.entry(key).or_insert(value);
        }
        let read = Self::deserialize(toml::Value::Table(table));
        match &read {
            Ok(config) => faults.extend(config.faults()),
            Err(error) if faults.is_empty() => {
                faults.push(Fault { key: Self::FILE.to_owned(), detail: one_line(error.message()) });
            }
            Err(_) => {}
        }
        read.ok().filter(|_| faults.is_empty()).ok_or(ConfigError { faults })
    }
}

/// The parser's words, which it breaks into lines at times.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every key of the table (and of the tables in it) with a table that holds nothing else.
fn flatten(table: &toml::Table, tables: &[&str]) -> Vec<(String, toml::Table)> {
    let lone = |key: &str, value: &toml::Value| toml::Table::from_iter([(key.to_owned(), value.clone())]);
    let mut keys = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) if tables.contains(&key.as_str()) => {
                keys.extend(inner.iter().map(|(name, value)| {
                    (format!("{key}.{name}"), lone(key, &toml::Value::Table(lone(name, value))))
                }))
            }
            value => keys.push((key.clone(), lone(key, value))),
        }
    }
    keys
}
