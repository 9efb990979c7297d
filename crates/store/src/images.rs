//! Images: names for content that lies in the nodes' stores.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::{Row, to_json};
use crate::{Error, Idempotency, PageOf, Store};
use model::api::{Image, RegisterImage};
use model::audit::EventKind;
use model::image::ImageConfig;
use model::packages::{ImageVersion, Packages};
use model::{AccountId, ImageId, Name};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn image(row: &Row) -> Result<Image, Error> {
    Ok(Image {
        id: row.parsed("id")?,
        name: row.parsed("name")?,
        digest: row.text("digest")?,
        size: row.number("size")?,
        config: row.json("config")?,
        created_at: row.at("created_at")?,
    })
}

impl Store {
    /// Makes an image known. A name that is taken moves to the new content, under a new id; asking again for
    /// what is already so changes nothing.
    pub async fn register_image(
        &self,
        actor: Actor,
        account: AccountId,
        request: &RegisterImage,
        idempotency: Option<&Idempotency>,
    ) -> Result<Image, Error> {
        let mut change = self.change(actor).await?;
        if let Some(before) = change.replay(idempotency).await? {
            change.settle().await?;
            return Ok(before);
        }
        let now = change.now;
        let held = query("SELECT * FROM images WHERE account = $1 AND name = $2 AND deleted_at IS NULL")
            .bind(account.to_string())
            .bind(request.name.as_str())
            .fetch_optional(change.db().await?)
            .await?;
        let held = held.as_ref().map(image).transpose()?;
        if let Some(held) = &held {
            if held.digest == request.digest && held.size == request.size && held.config == request.config {
                // Of one from before it may be known only now.
                query("UPDATE images SET packages = $1 WHERE id = $2 AND packages IS NULL")
                    .bind(request.packages.as_ref().map(to_json))
                    .bind(held.id.to_string())
                    .execute(change.db().await?)
                    .await?;
                change.remember(idempotency, held);
                change.commit_bookkeeping().await?;
                return Ok(held.clone());
            }
            query("UPDATE images SET deleted_at = $1 WHERE id = $2")
                .bind(now)
                .bind(held.id.to_string())
                .execute(change.db().await?)
                .await?;
        }
        let id = ImageId::new();
        let row = query(
            "INSERT INTO images (id, account, name, digest, size, config, created_at, packages)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *",
        )
        .bind(id.to_string())
        .bind(account.to_string())
        .bind(request.name.as_str())
        .bind(&request.digest)
        .bind(request.size as i64)
        .bind(to_json(&request.config))
        .bind(now)
        .bind(request.packages.as_ref().map(to_json))
        .fetch_one(change.db().await?)
        .await?;
        let made = image(&row)?;
        change.named_image(account, &made.name).await?;
        let detail = json!({"name": made.name, "digest": made.digest, "replaces": held.map(|held| held.id)});
        change.event(Some(account), EventKind::ImageRegistered, id, detail);
        change.remember(idempotency, &made);
        change.commit().await?;
        Ok(made)
    }

    /// An image by its id.
    pub async fn image(&self, account: AccountId, id: ImageId) -> Result<Image, Error> {
        let row = query("SELECT * FROM images WHERE account = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(account.to_string())
            .bind(id.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        image(&row.ok_or(Error::NotFound { what: "image" })?)
    }

    /// An image by its name.
    pub async fn image_named(&self, account: AccountId, name: &Name) -> Result<Image, Error> {
        let row = query("SELECT * FROM images WHERE account = $1 AND name = $2 AND deleted_at IS NULL")
            .bind(account.to_string())
            .bind(name.as_str())
            .fetch_optional(&self.0.reader)
            .await?;
        image(&row.ok_or(Error::NotFound { what: "image" })?)
    }

    /// What an image said when an agent was made of it, whether its name moved on or not.
    pub async fn image_config(&self, account: AccountId, id: ImageId) -> Result<ImageConfig, Error> {
        let row = query("SELECT config FROM images WHERE account = $1 AND id = $2")
            .bind(account.to_string())
            .bind(id.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        row.ok_or(Error::NotFound { what: "image" })?.json("config")
    }

    /// An image that the account has or had, by its id, or by the name that it has now, and what is installed in it.
    pub async fn image_packages(
        &self,
        account: AccountId,
        key: &str,
    ) -> Result<(ImageVersion, Option<Packages>), Error> {
        // Of one that is forgotten an agent may still be made.
        let row = query(
            "SELECT id, name, digest, packages FROM images
             WHERE account = $1 AND (id = $2 OR name = $2 AND deleted_at IS NULL)",
        )
        .bind(account.to_string())
        .bind(key)
        .fetch_optional(&self.0.reader)
        .await?;
        let row = row.ok_or(Error::NotFound { what: "image" })?;
        let image =
            ImageVersion { id: row.parsed("id")?, name: row.parsed("name")?, digest: row.text("digest")? };
        Ok((image, row.json_opt("packages")?))
    }

    /// What an image is that an account has.
    pub async fn packages_of(&self, account: AccountId, id: ImageId) -> Result<Option<Packages>, Error> {
        let (_, packages) = self.image_packages(account, &id.to_string()).await?;
        Ok(packages)
    }

    /// What these names of images mean in an account now.
    pub async fn images_named(
        &self,
        account: AccountId,
        names: &BTreeSet<&Name>,
    ) -> Result<BTreeMap<Name, (ImageId, String)>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = query(
            "SELECT id, name, digest FROM images
             WHERE account = $1 AND deleted_at IS NULL AND name IN (SELECT value FROM json_each($2))",
        )
        .bind(account.to_string())
        .bind(to_json(names))
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(|row| Ok((row.parsed("name")?, (row.parsed("id")?, row.text("digest")?)))).collect()
    }

    /// The account's images.
    pub async fn images(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Image>, Error> {
        let rows = query(
            "SELECT * FROM images WHERE account = $1 AND deleted_at IS NULL AND ($2 IS NULL OR id < $2)
             ORDER BY id DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(image).collect::<Result<_, _>>()?, limit))
    }

    /// Whether the account has this content, under whatever name.
    pub async fn has_image(&self, account: AccountId, digest: &str) -> Result<bool, Error> {
        let row = query(
            "SELECT 1 AS one FROM images WHERE account = $1 AND digest = $2 AND deleted_at IS NULL LIMIT 1",
        )
        .bind(account.to_string())
        .bind(digest)
        .fetch_optional(&self.0.reader)
        .await?;
        Ok(row.is_some())
    }

    /// The content that any account has, or that any agent was made from which is not destroyed.
    pub async fn images_in_use(&self) -> Result<Vec<String>, Error> {
        let rows = query(
            "SELECT digest FROM images WHERE deleted_at IS NULL
             UNION
             SELECT i.digest FROM agents a JOIN images i ON i.id = a.image WHERE a.state <> 'destroyed'",
        )
        .fetch_all(&self.0.reader)
        .await?;
        rows.iter().map(|row| row.text("digest")).collect()
    }

    /// Forgets an image that no living agent was made from.
    pub async fn delete_image(&self, actor: Actor, account: AccountId, id: ImageId) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let used =
            query("SELECT name FROM agents WHERE image = $1 AND account = $2 AND state <> 'destroyed'")
                .bind(id.to_string())
                .bind(account.to_string())
                .fetch_optional(change.db().await?)
                .await?;
        if let Some(row) = used {
            return Err(Error::InUse {
                what: format!("the agent {} was made from this image", row.text("name")?),
            });
        }
        let now = change.now;
        let gone = query(
            "UPDATE images SET deleted_at = $1 WHERE id = $2 AND account = $3 AND deleted_at IS NULL RETURNING name",
        )
        .bind(now)
        .bind(id.to_string())
        .bind(account.to_string())
        .fetch_optional(change.db().await?)
        .await?;
        let name = gone.ok_or(Error::NotFound { what: "image" })?.parsed("name")?;
        change.named_image(account, &name).await?;
        change.event(Some(account), EventKind::ImageDeleted, id, json!({}));
        change.commit().await
    }
}

impl Change {
    /// A name means another image now: agents that were made of what it meant are shown with that.
    async fn named_image(&mut self, account: AccountId, name: &Name) -> Result<(), Error> {
        query(
            "UPDATE agents SET shown = shown + 1
             WHERE account = $1 AND image_name = $2 AND state <> 'destroyed'",
        )
        .bind(account.to_string())
        .bind(name.as_str())
        .execute(self.db().await?)
        .await?;
        Ok(())
    }
}
