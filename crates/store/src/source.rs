//! Where a change comes from: the address of whoever asked for it, and the request. It goes with the request, so that no operation has
//! to hand it on; what control does by itself, and what comes by the unix socket, is `local`.

use std::net::IpAddr;

#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) address: Option<IpAddr>,
    pub(crate) request: String,
}

tokio::task_local! {
    static SOURCE: Source;
}

/// Does some work for a request. Every event that is written by it says so.
pub async fn asked_from<F: Future>(address: Option<IpAddr>, request: &str, work: F) -> F::Output {
    SOURCE.scope(Source { address, request: request.to_owned() }, work).await
}

/// The address, or `local`, and the request, if there is one.
pub(crate) fn source() -> (String, Option<String>) {
    let local = || "local".to_owned();
    match SOURCE.try_with(Clone::clone) {
        Ok(Source { address, request }) => {
            (address.map_or_else(local, |address| address.to_canonical().to_string()), Some(request))
        }
        Err(_) => (local(), None),
    }
}
