//! The connection onwards: the name is resolved, and its addresses are tried until one answers.

use super::Context;
use super::flow::{Destination, Flow};
use super::resolve::ResolveError;
use crate::limits;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use model::gate_api::Unconnected;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The name was not resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// It has no address.
    #[error("the name has no address")]
    NoAddress,
    /// None of its addresses could be connected to; this is what became of the last one.
    #[error("{}", words(*.0))]
    Unconnected(Unconnected),
}

fn words(why: Unconnected) -> &'static str {
    match why {
        Unconnected::Forbidden => "its address is not one of the public internet",
        Unconnected::Refused => "it refused the connection",
        Unconnected::Unreachable => "there is no way to it",
        Unconnected::Slow => "it did not answer in time",
        Unconnected::Busy => "too many connections are being made",
    }
}

/// Connects to where the flow goes, which was decided on.
pub async fn connect(context: &Context, flow: &Flow) -> Result<TcpStream, UpstreamError> {
    let addresses = match &flow.to {
        Destination::Address(address) => vec![*address],
        Destination::Name(name) => {
            in_order(&context.resolver.lookup(name).await?, context.dialer.only_v4())
        }
    };
    let mut next = addresses.into_iter().map(|address| SocketAddr::new(address, flow.port));
    let dial = |address| async move { (address, context.dialer.connect(&flow.agent, address).await) };
    // Each has a head start over the next, and who answers first is taken (RFC 8305). The others are dropped: what node
    // connects for them later is closed.
    let mut dials = FuturesUnordered::new();
    dials.extend(next.next().map(&dial));
    let mut last = UpstreamError::NoAddress;
    let mut later = Instant::now() + limits::NEXT_ADDRESS;
    loop {
        let more = tokio::select! {
            dialled = dials.next() => match dialled {
                Some((address, Ok(stream))) => {
                    flow.connected(address);
                    return Ok(stream);
                }
                Some((_, Err(why))) => {
                    last = UpstreamError::Unconnected(why);
                    next.next()
                }
                None => return Err(last),
            },
            () = tokio::time::sleep_until(later) => next.next(),
        };
        if let Some(address) = more {
            dials.push(dial(address));
            later = Instant::now() + limits::NEXT_ADDRESS;
        } else {
            // Nothing is left to be tried: only answers count.
            later = Instant::now() + limits::DIAL_TIME;
        }
    }
}

/// Both families in turn, not too many.
fn in_order(addresses: &[IpAddr], v4_first: bool) -> Vec<IpAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(|address| address.is_ipv4());
    v4.truncate(limits::ADDRESSES);
    v6.truncate(limits::ADDRESSES);
    let (mut first, mut second) = if v4_first { (v4, v6) } else { (v6, v4) };
    first.reverse();
    second.reverse();
    let mut all = Vec::new();
    while all.len() < limits::ADDRESSES && (!first.is_empty() || !second.is_empty()) {
        all.extend(first.pop());
        all.extend(second.pop());
    }
    all.truncate(limits::ADDRESSES);
    all
}

#[cfg(test)]
mod tests {
    use super::in_order;
    use std::net::IpAddr;

    #[test]
    fn families_take_turns() {
        let check = |addresses: &[&str], v4_first: bool, expected: &[&str]| {
            let parse = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
            assert_eq!(in_order(&parse(addresses), v4_first), parse(expected));
        };
        check(&[], false, &[]);
        check(&["1.1.1.1", "::1"], false, &["::1", "1.1.1.1"]);
        check(&["::1", "1.1.1.1"], true, &["1.1.1.1", "::1"]);
        check(&["1.1.1.1", "2.2.2.2", "::1"], false, &["::1", "1.1.1.1", "2.2.2.2"]);
        let many = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5", "1.1.1.6", "1.1.1.7", "::1"];
        check(&many, false, &["::1", "1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"]);
    }
}
