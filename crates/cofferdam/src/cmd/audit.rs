//! `audit …`: the ledger, followed, exported, and verified on this side.

use crate::cli::Global;
use crate::context;
use crate::output;
use anyhow::Context as _;
use clap::Subcommand;
use client::{Chain, Control};
use ledger::{Receipt, Walk};
use std::path::PathBuf;

/// How long control waits for the next entry in one call, in seconds.
const WAIT: u64 = 50;

/// What `audit` has.
#[derive(Subcommand)]
pub enum Command {
    /// Verify the whole chain, or name the first event that was changed, removed or cut off
    ///
    /// Every entry is read and hashed here. Without a receipt, this shows what was changed by halves; that the chain was not written anew
    /// as a whole is shown by a receipt that was kept elsewhere since.
    #[command(after_long_help = "\
Examples:
  cofferdam audit verify
  cofferdam audit verify --against receipt.json")]
    Verify(Verify),
    /// Get a receipt: where the chain stands, signed; keep it where the installation's operator does not reach
    Receipt(Which),
    /// Write the chain as JSON lines: each entry with its event, to the letter
    Export(Which),
    /// The same, and go on with what comes
    Follow(Which),
}

/// Which chain.
#[derive(clap::Args)]
pub struct Which {
    /// That of the installation, for its operator
    #[arg(long)]
    installation: bool,
}

/// `audit verify`
#[derive(clap::Args)]
pub struct Verify {
    #[command(flatten)]
    which: Which,
    /// Hold it against a receipt; may be given several times
    #[arg(long, value_name = "RECEIPT")]
    against: Vec<PathBuf>,
}

impl Which {
    fn chain(&self) -> Chain {
        if self.installation { Chain::Installation } else { Chain::Account }
    }
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        match self {
            Self::Verify(args) => args.run(&control).await,
            Self::Receipt(which) => {
                output::json(&control.ledger_receipt(which.chain()).await?)?;
                Ok(0)
            }
            Self::Export(which) => export(&control, which.chain(), 0).await,
            Self::Follow(which) => export(&control, which.chain(), WAIT).await,
        }
    }
}

async fn export(control: &Control, chain: Chain, wait: u64) -> anyhow::Result<u8> {
    let mut after = 0;
    loop {
        let entries = control.ledger_entries(chain, after, wait).await?;
        entries.iter().try_for_each(output::json_line)?;
        match entries.last() {
            Some(last) => after = last.seq,
            None if wait == 0 => return Ok(0),
            None => {}
        }
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Receipt> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the receipt {}", path.display()))?;
    let receipt: Receipt =
        serde_json::from_str(&text).with_context(|| format!("{} is no receipt", path.display()))?;
    receipt.verify().with_context(|| format!("{} proves nothing", path.display()))?;
    Ok(receipt)
}

impl Verify {
    async fn run(self, control: &Control) -> anyhow::Result<u8> {
        let chain = self.which.chain();
        let receipts = self.against.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        let now = control.ledger_receipt(chain).await?;
        now.verify().context("what control says of the chain proves nothing")?;
        // Whose the chain is, a receipt that was kept tells better than who is asked.
        let own = receipts.first().unwrap_or(&now).checkpoint.clone();
        let mut walk = Walk::new(&own.installation, &own.chain);
        let said = receipts.iter().chain([&now]).try_for_each(|receipt| walk.expect(&receipt.checkpoint));
        said.map_err(|fault| anyhow::anyhow!("{fault}"))?;
        loop {
            let entries = control.ledger_entries(chain, walk.at().0, 0).await?;
            if entries.is_empty() {
                break;
            }
            entries.iter().try_for_each(|entry| walk.step(entry))?;
        }
        let (_, hash) = walk.at();
        let count = walk.end()?;
        let against = match receipts.len() {
            0 => "no receipt: whoever has the database could have written it anew".to_owned(),
            1 => "the receipt".to_owned(),
            more => format!("{more} receipts"),
        };
        output::line(format!(
            "{count} events, each as it was chained, up to {hash}; held against {against}"
        ))?;
        Ok(0)
    }
}
