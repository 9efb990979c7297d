//! Logs of the services, on stderr: `RUST_LOG` filters, `COFFERDAM_LOG=json` makes each line a JSON object.

use tracing_subscriber::EnvFilter;

/// Starts logging. Called once, first, by each service.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = std::env::var_os("COFFERDAM_LOG").is_some_and(|format| format == "json");
    // Escape sequences have no place in a log file, and a log may carry text from inside an agent.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
