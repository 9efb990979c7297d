//! Bodies of requests to control: read, or refused in our own words.

#![no_main]
#![allow(dead_code)]

// Control as a whole brings a database that this has no use for.
#[path = "../../crates/control/src/decode.rs"]
mod decode;
mod seeds;

use libfuzzer_sys::fuzz_target;
use model::{api, node_api};
use serde::de::DeserializeOwned;

fn request<T: DeserializeOwned>(value: &serde_json::Value) {
    let Err(fault) = decode::decode::<T>(value) else { return };
    let field = fault.field().unwrap_or_default();
    assert!(!field.chars().any(char::is_control), "{field:?}");
    for parsers_own in ["invalid type", "at line", "expected `", "untagged"] {
        assert!(!fault.detail.contains(parsers_own), "{}", fault.detail);
    }
    // What the client sent may be quoted, but neither at any length nor as it is.
    assert!(fault.detail.len() < 2000 && !fault.detail.chars().any(char::is_control), "{:?}", fault.detail);
}

fuzz_target!(
    init: seeds::plant("requests", [
        r#"{"name":"a","image":"debian","main":{"argv":["sh"],"env":{"A":"b"},"user":"root"},"labels":{"k":"v"},
            "resources":{"cpus":1.5,"memory":"1GiB","pids":5,"disk":"2GiB"},"ttl":"1h","idle_timeout":"5m"}"#,
        r#"{"name":"a","expires_at":"2030-01-01T00:00:00Z"}"#,
        r#"{"scopes":["exec","files"],"ttl":"5m"}"#,
        r#"{"token":"cofb_x","public_key":"x","capacity":{"slots":1,"cpus":1,"memory":1}}"#,
        r#"{"installation":"i","epoch":1,"rev":1,"agents":[{"id":"agt_01h455vb4pex5vsknk084sn02q","generation":1}]}"#,
        r#"{"name":"a","digest":"00","size":1,"config":{}}"#,
        r#"[{"a":[[[[1e400]]]]}, null, -1, 1e99]"#,
    ].map(|text| text.as_bytes().to_vec())),
    |data: &[u8]| {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
        request::<api::CreateAgent>(&value);
        request::<api::CreateKey>(&value);
        request::<api::CreateWorkspaceToken>(&value);
        request::<api::RegisterImage>(&value);
        request::<node_api::Enroll>(&value);
        request::<node_api::TokenRequest>(&value);
        request::<node_api::ObservedState>(&value);
    }
);
