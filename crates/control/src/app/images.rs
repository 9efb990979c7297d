//! Images of the caller's account.

use crate::app::{App, validate};
use crate::auth::Caller;
use crate::problems::Fault;
use model::api::{Image, RegisterImage};
use model::{ImageId, Name};
use store::Idempotency;

pub(crate) async fn register(
    app: &App,
    caller: &Caller,
    request: RegisterImage,
    idempotency: Option<Idempotency>,
) -> Result<Image, Fault> {
    validate::register_image(&request)?;
    Ok(app.store.register_image(caller.actor(), caller.account, &request, idempotency.as_ref()).await?)
}

/// An image by id or name.
pub(crate) async fn find(app: &App, caller: &Caller, key: &str) -> Result<Image, Fault> {
    if let Ok(id) = key.parse::<ImageId>() {
        return Fault::or_missing(app.store.image(caller.account, id).await, "image", key);
    }
    let name: Name = key.parse().map_err(|_| Fault::missing("image", key))?;
    Fault::or_missing(app.store.image_named(caller.account, &name).await, "image", key)
}

pub(crate) async fn delete(app: &App, caller: &Caller, key: &str) -> Result<(), Fault> {
    let image = find(app, caller, key).await?;
    Ok(app.store.delete_image(caller.actor(), caller.account, image.id).await?)
}
