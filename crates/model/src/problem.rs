//! Problems: the one shape of every error that leaves the platform (RFC 9457, `application/problem+json`).

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// What went wrong, for programs. Codes are stable: they are never renamed or reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// All codes, for the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The text on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with the code.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// A field of the request is missing, unknown, of the wrong type or out of bounds.
    Validation = "VALIDATION_ERROR", 400;
    /// No credential, or one that is not valid here.
    Unauthenticated = "UNAUTHENTICATED", 401;
    /// The password is right, and a code of the second factor is missing.
    SecondFactorRequired = "SECOND_FACTOR_REQUIRED", 401;
    /// The credential does not allow this.
    Forbidden = "FORBIDDEN", 403;
    /// The password, or a code, has to be shown once more before this.
    ProofRequired = "PROOF_REQUIRED", 403;
    /// The image is not signed by the key that the machine's operator asks for.
    NotSigned = "NOT_SIGNED", 403;
    /// The mode of the installation does not allow this.
    ModeRefuses = "MODE_REFUSES", 403;
    /// The account's agents may have no more.
    QuotaExceeded = "QUOTA_EXCEEDED", 403;
    /// The request came from a web page, or for a host name that is not ours.
    CrossOrigin = "CROSS_ORIGIN", 403;
    /// There is no such thing, or it is not yours.
    NotFound = "NOT_FOUND", 404;
    /// The resource has no such method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405;
    /// The name is taken.
    NameTaken = "NAME_TAKEN", 409;
    /// The agent's state does not allow this now.
    WrongState = "WRONG_STATE", 409;
    /// The resource is in use.
    InUse = "IN_USE", 409;
    /// Something keeps the agent in its account. The detail lists all of it.
    CannotTransfer = "CANNOT_TRANSFER", 409;
    /// The idempotency key was used with another request.
    IdempotencyMismatch = "IDEMPOTENCY_MISMATCH", 409;
    /// No node of the installation makes agents of this level.
    LevelUnavailable = "LEVEL_UNAVAILABLE", 409;
    /// The resource changed since it was read (`If-Match`).
    PreconditionFailed = "PRECONDITION_FAILED", 412;
    /// The body is larger than is accepted.
    TooLarge = "TOO_LARGE", 413;
    /// The body has a media type that is not accepted.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", 415;
    /// The host name is not one that this server answers for.
    Misdirected = "MISDIRECTED", 421;
    /// Too many requests, execs or connections.
    TooMany = "TOO_MANY", 429;
    /// No node can take the agent now.
    NoCapacity = "NO_CAPACITY", 503;
    /// The agent, its node or its gate does not answer.
    Unavailable = "UNAVAILABLE", 503;
    /// The wait ended before the state was reached.
    Timeout = "TIMEOUT", 504;
    /// The agent's disk is full, or the node's.
    DiskFull = "DISK_FULL", 507;
    /// Our fault. The log has the detail, under the request id.
    Internal = "INTERNAL", 500;
}

// Derived, it would name the variants: the texts come to the derive as tokens of a macro.
impl utoipa::PartialSchema for Code {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "What went wrong, for programs. Codes are stable: they are never renamed or reused.",
            ))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl utoipa::ToSchema for Code {}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A problem, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, thiserror::Error)]
#[error("{detail}{}", remedy.as_deref().map(|remedy| format!(" ({remedy})")).unwrap_or_default())]
pub struct Problem {
    /// What went wrong, for programs.
    pub code: Code,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, in one sentence.
    pub detail: String,
    /// The field of the request that it is about, as a path (`resources.memory`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// After how many seconds the same may be asked again, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The id under which the log has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem with its code's status.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            detail: detail.into(),
            field: None,
            remedy: None,
            retry_after: None,
            request_id: None,
        }
    }

    /// A fault of one field.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::Validation, detail) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds after how many seconds the same may be asked again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}
