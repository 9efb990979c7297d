//! `image prune`: frees the disk of what nobody uses.

use crate::cli::Global;
use crate::cmd::service;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::up::setup;
use image::{Store, prune};
use model::Code;
use serde_json::json;

/// Removes images that neither control nor this node's agents know.
pub async fn run(global: &Global) -> anyhow::Result<u8> {
    setup::require_root("image prune")?;
    let config = service::node_config(&Paths::from_env()?)?;
    let store = Store::open(config.data.join("images"))?;
    // First of all: what is asked for then holds until everything is removed.
    let Some(_held) = store.hold_alone()? else {
        return Err(fail_with(
            Code::InUse,
            "An image is being made on this machine.",
            "prune when it is done",
        ));
    };
    let in_use = node::images_in_use(&config).await?;
    let pruned =
        tokio::task::spawn_blocking(move || prune(&store, &|digest| in_use.contains(digest.as_str())))
            .await??;
    match global.output {
        Format::Json => output::json(&json!({
            "images": pruned.images.iter().map(image::Digest::as_str).collect::<Vec<_>>(),
            "bytes": pruned.bytes,
        }))?,
        Format::Table => output::line(format_args!(
            "Removed {} images and {} in all.",
            pruned.images.len(),
            output::size(pruned.bytes)
        ))?,
    }
    Ok(0)
}
