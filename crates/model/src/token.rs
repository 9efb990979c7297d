//! What signed tokens carry. Signing and verifying is done where the keys are.

use crate::id::{AccountId, AgentId, KeyId, NodeId};
use serde::{Deserialize, Serialize};

/// What a workspace token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Start, list, signal and attach to execs; read processes and usage.
    Exec,
    /// Read and write files.
    Files,
    /// Read logs.
    Logs,
    /// Connect to local TCP ports.
    Ports,
}

/// Claims of a workspace token: an EdDSA JWT (RFC 7519, RFC 8037) that the guard verifies offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceClaims {
    /// The installation that signed it.
    pub iss: String,
    /// Who asked for it: a user or an API key.
    pub sub: String,
    /// The agent.
    pub aud: AgentId,
    /// The agent's account.
    pub acc: AccountId,
    /// What it allows.
    pub scp: Vec<Scope>,
    /// The agent's epoch; a token of an older epoch is refused.
    pub epoch: u64,
    /// Unique.
    pub jti: String,
    /// Issued at, seconds since 1970.
    pub iat: i64,
    /// Not valid after, seconds since 1970; at most an hour after `iat`.
    pub exp: i64,
}

/// The longest life of a workspace token, in seconds.
pub const WORKSPACE_TOKEN_LIFE: i64 = 3600;

/// Claims of a node's assertion (RFC 7523): signed with the key it enrolled, traded for a callback token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAssertion {
    /// The node.
    pub iss: NodeId,
    /// The installation.
    pub aud: String,
    /// Unique, so that one assertion is traded once.
    pub jti: String,
    /// Issued at.
    pub iat: i64,
    /// Not valid after; at most a minute after `iat`.
    pub exp: i64,
}

/// A node's request for the secrets of one of its agents, signed with the key it enrolled: whoever has its callback token alone gets
/// nothing that they can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealAssertion {
    /// The node.
    pub iss: NodeId,
    /// [`SealAssertion::audience`] of the installation, so that this is no other assertion.
    pub aud: String,
    /// The agent.
    pub sub: AgentId,
    /// A public key of X25519, base64url without padding, whose private half the node has for this answer alone.
    pub seal: String,
    /// Unique, so that one assertion is answered once.
    pub jti: String,
    /// Issued at.
    pub iat: i64,
    /// Not valid after; at most a minute after `iat`.
    pub exp: i64,
}

impl SealAssertion {
    /// Whom these are for.
    pub fn audience(installation: &str) -> String {
        format!("{installation}/secrets")
    }
}

/// A node's word that an account may have an image that lies in its store: signed with the key it enrolled, shown
/// when the account registers the image. Root on the node asked for it, having pulled or imported the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVoucher {
    /// The node.
    pub iss: NodeId,
    /// [`ImageVoucher::audience`] of the installation, so that this is no [`NodeAssertion`].
    pub aud: String,
    /// The account.
    pub sub: AccountId,
    /// Lowercase hex of the SHA-256 of the EROFS file.
    pub digest: String,
    /// Bytes of the EROFS file.
    pub size: u64,
    /// Issued at.
    pub iat: i64,
    /// Not valid after; at most a minute after `iat`.
    pub exp: i64,
}

impl ImageVoucher {
    /// Whom vouchers are for.
    pub fn audience(installation: &str) -> String {
        format!("{installation}/images")
    }
}

/// A public key that verifies workspace tokens: Ed25519, base64url without padding (RFC 8037 `x`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyingKey {
    /// The `kid` of the JWT header.
    pub kid: KeyId,
    /// The 32 bytes of the key.
    pub x: String,
}
