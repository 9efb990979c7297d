//! Credentials into the heads of requests. What the agent wrote in the place is taken out; all else that it wrote may hold no
//! placeholder.

use super::body::{self, Format};
use super::placeholder;
use super::scrub::{Needles, Scrubber};
use super::{Credential, Credentials, Unfit};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hyper::Uri;
use hyper::header::{
    self, ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE, SEC_WEBSOCKET_EXTENSIONS, TE,
};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use model::Name;
use model::policy::{Inject, Place};
use std::collections::BTreeSet;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What was put into a request.
#[derive(Default)]
pub struct Put {
    /// All of it.
    pub credentials: Vec<Arc<Credential>>,
    /// What is yet to be put into the body, by field.
    pub fields: Vec<Field>,
    /// What may not be in the answer: also what was put into other requests to the host, which may show it to this one.
    kept: Vec<Arc<Needles>>,
}

/// A place in the body.
pub struct Field {
    name: String,
    candidates: Vec<Arc<Credential>>,
}

/// Why a request is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Something that begins like a placeholder is where nothing would take its place.
    #[error("a placeholder where no credential is put")]
    Stray,
    /// A credential cannot be put where it should be.
    #[error("the credential {secret}: {why}")]
    Unfit {
        /// Its name.
        secret: Name,
        /// Why.
        why: Unfit,
    },
    /// The body has no fields, though its type says so.
    #[error("the body: {0}")]
    Malformed(#[from] body::Malformed),
}

/// Where, so that two for the same place are known.
#[derive(PartialEq, Eq)]
enum Spot<'a> {
    Header(HeaderName),
    Query(&'a str),
    Body(&'a str),
}

/// Whether there is a placeholder in the head of a request that is given no credential.
pub fn check(parts: &Parts) -> Result<(), Refused> {
    look(parts, parts.uri.query().unwrap_or_default().as_bytes())
}

/// Puts credentials into the head of a request. Of several for one place that is taken whose placeholder the agent wrote, or the
/// first.
pub fn put(parts: &mut Parts, injects: &[&Inject], known: &Credentials) -> Result<Put, Refused> {
    let mut put = Put::default();
    let mut headers = Vec::new();
    let query = parts.uri.query().unwrap_or_default();
    let (mut query, mut query_rest) = (Zeroizing::new(query.as_bytes().to_vec()), query.as_bytes().to_vec());
    let mut queried = false;
    for (spot, entries) in spots(injects) {
        match spot {
            Spot::Body(name) => {
                let candidates = entries.iter().map(|inject| get(known, &inject.secret));
                let candidates = candidates.collect::<Result<_, _>>()?;
                put.fields.push(Field { name: name.to_owned(), candidates });
            }
            Spot::Header(name) => {
                let was = taken(&mut parts.headers, &name);
                let (inject, credential) = choose(&entries, known, &was)?;
                headers.push((name, written(inject, credential)?));
                put.credentials.push(credential.clone());
            }
            Spot::Query(name) => {
                let without = body::pairs(&query_rest, name, "");
                let (_, credential) = choose(&entries, known, &without.was)?;
                query_rest = without.rest;
                query = body::pairs(&query, name, credential.value.expose()).body;
                queried = true;
                put.credentials.push(credential.clone());
            }
        }
    }
    look(parts, &query_rest)?;
    if queried {
        let path = Zeroizing::new([parts.uri.path().as_bytes(), b"?", &query].concat());
        let unfit = |_| unfit(put.credentials.first(), Unfit::Characters);
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(PathAndQuery::try_from(&path[..]).map_err(|_| unfit(()))?);
        parts.uri = Uri::from_parts(uri).map_err(|_| unfit(()))?;
    }
    for (name, value) in headers {
        parts.headers.insert(name, value);
    }
    Ok(put)
}

/// What was put in has to be understood when it comes back, and to come back whole.
fn ask_for_identity(headers: &mut HeaderMap) {
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if headers.get_all(TE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.remove(TE);
    }
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
}

impl Put {
    /// Has the credentials of a host kept from the answer to this request.
    pub fn keep_from_answers(
        &mut self,
        of_host: &[&Inject],
        known: Option<&Credentials>,
        headers: &mut HeaderMap,
    ) {
        let names: BTreeSet<&Name> = of_host.iter().map(|inject| &inject.secret).collect();
        let credentials = names.into_iter().filter_map(|secret| known?.get(secret).ok());
        self.kept = credentials.map(|credential| credential.needles.clone()).collect();
        if !self.kept.is_empty() {
            ask_for_identity(headers);
        }
    }

    /// What takes them out of the answer, if there are any.
    pub fn scrubber(&self) -> Option<Scrubber> {
        (!self.kept.is_empty()).then(|| Scrubber::new(self.kept.clone()))
    }

    /// A body with what is to be put into it, if it is one that has fields.
    pub fn into_body(&mut self, format: Format, body: Vec<u8>) -> Result<Vec<u8>, Refused> {
        let mut rest = body.clone();
        let mut body = Zeroizing::new(body);
        for Field { name, candidates } in std::mem::take(&mut self.fields) {
            let without = format.replace(&rest, &name, "")?;
            let wrote = |credential: &&Arc<Credential>| wrote(&without.was, credential);
            let chosen = candidates.iter().find(wrote).or(candidates.first());
            let Some(credential) = chosen else { continue };
            if !without.was.iter().all(|was| is_clean(was.as_bytes(), credential)) {
                return Err(Refused::Stray);
            }
            body = format.replace(&body, &name, credential.value.expose())?.body;
            rest = without.rest;
            self.credentials.push(credential.clone());
        }
        if placeholder::is_in(&rest) {
            return Err(Refused::Stray);
        }
        Ok(std::mem::take(&mut *body))
    }
}

/// The places that are named, and what may stand in each.
fn spots<'a>(injects: &[&'a Inject]) -> Vec<(Spot<'a>, Vec<&'a Inject>)> {
    let mut spots: Vec<(Spot<'_>, Vec<&Inject>)> = Vec::new();
    for inject in injects {
        let spot = match inject.place() {
            Some(Place::Header { name, .. }) => HeaderName::try_from(name).ok().map(Spot::Header),
            Some(Place::Basic { .. }) => Some(Spot::Header(header::AUTHORIZATION)),
            Some(Place::Query { name }) => Some(Spot::Query(name)),
            Some(Place::Body { field }) => Some(Spot::Body(field)),
            None => None,
        };
        let Some(spot) = spot else { continue };
        match spots.iter_mut().find(|(own, _)| *own == spot) {
            Some((_, entries)) => entries.push(inject),
            None => spots.push((spot, vec![inject])),
        }
    }
    spots
}

fn get(known: &Credentials, secret: &Name) -> Result<Arc<Credential>, Refused> {
    known.get(secret).cloned().map_err(|why| Refused::Unfit { secret: secret.clone(), why })
}

/// What is put in a place where the agent wrote this.
fn choose<'a>(
    entries: &[&'a Inject],
    known: &'a Credentials,
    was: &[String],
) -> Result<(&'a Inject, &'a Arc<Credential>), Refused> {
    let wrote = |inject: &&&Inject| known.get(&inject.secret).is_ok_and(|credential| wrote(was, credential));
    let Some(inject) = entries.iter().find(wrote).or(entries.first()) else { return Err(Refused::Stray) };
    let credential = known.get(&inject.secret);
    let credential = credential.map_err(|why| Refused::Unfit { secret: inject.secret.clone(), why })?;
    if was.iter().all(|was| is_clean(was.as_bytes(), credential)) {
        Ok((inject, credential))
    } else {
        Err(Refused::Stray)
    }
}

fn wrote(was: &[String], credential: &Credential) -> bool {
    !credential.placeholder.is_empty() && was.iter().any(|was| was.contains(&credential.placeholder))
}

/// Whether a text has no other placeholder than the credential's.
fn is_clean(text: &[u8], credential: &Credential) -> bool {
    let text = String::from_utf8_lossy(text);
    let without = match credential.placeholder.as_str() {
        "" => text.into_owned(),
        // Not put together again of what was around it.
        own => text.replace(own, "\n"),
    };
    !placeholder::is_in(without.as_bytes())
}

/// Takes a header out of a request: what it said, user and password decoded.
fn taken(headers: &mut HeaderMap, name: &HeaderName) -> Vec<String> {
    let was = headers.get_all(name).iter().map(|value| {
        let said = value.as_bytes();
        let basic = said.split_at_checked(6).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"basic "));
        let pair = basic.and_then(|(_, encoded)| {
            let encoded = encoded.trim_ascii();
            STANDARD.decode(encoded).or_else(|_| STANDARD_NO_PAD.decode(encoded)).ok()
        });
        String::from_utf8_lossy(pair.as_deref().unwrap_or(said)).into_owned()
    });
    let was = was.collect();
    headers.remove(name);
    was
}

/// What is written into the header.
fn written(inject: &Inject, credential: &Arc<Credential>) -> Result<HeaderValue, Refused> {
    let value = credential.value.expose();
    let text = match inject.place() {
        Some(Place::Basic { user }) => {
            let pair = Zeroizing::new(format!("{user}:{value}"));
            format!("Basic {}", *Zeroizing::new(STANDARD.encode(pair.as_bytes())))
        }
        // Servers take blanks off, and what they then show would not be recognised.
        Some(Place::Header { .. }) if value.trim_matches([' ', '\t']) != value => {
            return Err(unfit(Some(credential), Unfit::Characters));
        }
        Some(Place::Header { prefix, .. }) => format!("{prefix}{value}"),
        _ => String::new(),
    };
    let text = Zeroizing::new(text);
    let mut value = HeaderValue::from_str(&text)
        .or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
        .map_err(|_| unfit(Some(credential), Unfit::Characters))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unfit(credential: Option<&Arc<Credential>>, why: Unfit) -> Refused {
    credential.map_or(Refused::Stray, |credential| Refused::Unfit { secret: credential.secret.clone(), why })
}

/// Looks for placeholders in a head with this query.
fn look(parts: &Parts, query: &[u8]) -> Result<(), Refused> {
    let mut text = [parts.method.as_str(), "\n", parts.uri.path(), "\n"].concat().into_bytes();
    text.extend_from_slice(query);
    add(&mut text, &parts.headers);
    if placeholder::is_in(&text) { Err(Refused::Stray) } else { Ok(()) }
}

/// Whether there is a placeholder in trailers.
pub fn is_in_trailers(trailers: &HeaderMap) -> bool {
    let mut text = Vec::new();
    add(&mut text, trailers);
    placeholder::is_in(&text)
}

fn add(text: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        // No form of a placeholder goes on over these.
        text.push(b'\n');
        text.extend_from_slice(name.as_str().as_bytes());
        text.push(b'\n');
        text.extend_from_slice(value.as_bytes());
    }
}
