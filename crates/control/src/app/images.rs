//! Images of the caller's account.

use crate::app::{App, validate};
use crate::auth::Caller;
use crate::auth::access::Action;
use crate::auth::voucher::{self, VoucherError};
use crate::problems::Fault;
use model::api::{GrantImage, Image, RegisterImage};
use model::packages::{self, ImageDiff};
use model::{Code, ImageId, Name, Problem};
use store::Idempotency;

pub(crate) async fn register(
    app: &App,
    caller: &Caller,
    request: RegisterImage,
    idempotency: Option<Idempotency>,
) -> Result<Image, Fault> {
    validate::register_image(&request)?;
    if let Some(voucher) = &request.voucher {
        verify(app, caller, &request, voucher).await?;
    } else if !caller.may(Action::Operate) && !app.store.has_image(caller.account, &request.digest).await? {
        // Whoever knows a digest does not have the content by that.
        let detail = "a node has to vouch that this account may have the image";
        let remedy = "`cofferdam image pull` and `image import` on the node get its word; an operator can grant the image";
        return Err(Problem::new(Code::Forbidden, detail).remedy(remedy).into());
    }
    Ok(app.store.register_image(caller.actor(), caller.account, &request, idempotency.as_ref()).await?)
}

async fn verify(app: &App, caller: &Caller, request: &RegisterImage, token: &str) -> Result<(), Fault> {
    let refused = |error: VoucherError| {
        let remedy = "ask the node for a new one, for this account and this image";
        Fault(
            Problem { field: Some("voucher".to_owned()), ..Problem::new(Code::Forbidden, error.to_string()) }
                .remedy(remedy),
        )
    };
    let node = voucher::claimed_issuer(token).map_err(refused)?;
    let key = app.store.node_key(node).await?.ok_or_else(|| refused(VoucherError::Signature))?;
    let now = app.store.now().unix_timestamp();
    let claims = voucher::verify(token, &key, &app.installation.id, now).map_err(refused)?;
    let right =
        claims.sub == caller.account && claims.digest == request.digest && claims.size == request.size;
    if right { Ok(()) } else { Err(refused(VoucherError::Subject)) }
}

/// Lets another account have an image of the operator's.
pub(crate) async fn grant(
    app: &App,
    caller: &Caller,
    key: &str,
    request: GrantImage,
    idempotency: Option<Idempotency>,
) -> Result<Image, Fault> {
    let image = find(app, caller, key).await?;
    if !app.store.account_exists(request.account).await? {
        return Err(Problem::invalid("account", "there is no such account").into());
    }
    let packages = app.store.packages_of(caller.account, image.id).await?;
    let Image { name, digest, size, config, .. } = image;
    let register = RegisterImage { name, digest, size, config, packages, voucher: None };
    Ok(app.store.register_image(caller.actor(), request.account, &register, idempotency.as_ref()).await?)
}

/// An image by id or name.
pub(crate) async fn find(app: &App, caller: &Caller, key: &str) -> Result<Image, Fault> {
    if let Ok(id) = key.parse::<ImageId>() {
        return Fault::or_missing(app.store.image(caller.account, id).await, "image", key);
    }
    let name: Name = key.parse().map_err(|_| Fault::missing("image", key))?;
    Fault::or_missing(app.store.image_named(caller.account, &name).await, "image", key)
}

/// What the image `to` has other than `from`. Either may be one that the account had: agents may still be made of it.
pub(crate) async fn diff(app: &App, caller: &Caller, from: &str, to: &str) -> Result<ImageDiff, Fault> {
    let find = async |key: &str| {
        Fault::or_missing(app.store.image_packages(caller.account, key).await, "image", key)
    };
    let ((from, before), (to, after)) = (find(from).await?, find(to).await?);
    Ok(packages::diff((from, before.as_ref()), (to, after.as_ref())))
}

pub(crate) async fn delete(app: &App, caller: &Caller, key: &str) -> Result<(), Fault> {
    let image = find(app, caller, key).await?;
    Ok(app.store.delete_image(caller.actor(), caller.account, image.id).await?)
}
