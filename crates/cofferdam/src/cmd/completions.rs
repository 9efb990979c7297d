//! `completions`: what a shell needs to complete this program's commands.

use crate::cli::Cli;
use clap::CommandFactory;

/// Print completions for a shell
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam completions bash > /etc/bash_completion.d/cofferdam
  cofferdam completions fish > ~/.config/fish/completions/cofferdam.fish")]
pub struct Args {
    /// Shell
    shell: clap_complete::Shell,
}

impl Args {
    pub fn run(self) -> anyhow::Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "cofferdam", &mut script);
        std::io::Write::write_all(&mut std::io::stdout(), &script)?;
        Ok(0)
    }
}
