//! The OpenAPI 3.1 document, generated from the handlers. Which problems an operation may answer with is said
//! here, once; a test holds the answers it sees against it.

use super::query;
use model::{AgentState, Code, Problem};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ArrayBuilder, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

/// The document, as it is served.
pub(super) static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| document().to_json().expect("the document is plain data"));

const KEY: &str = "api_key";

pub(super) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Cofferdam control API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Errors are problems (RFC 9457) with a stable `code`, the `field` that is at fault and a `remedy`. \
             Every answer carries `x-request-id`.",
        ));
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key: cof_…"));
    let mut components = Components::new();
    components.add_security_scheme(KEY, SecurityScheme::Http(key.build()));
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components.schemas.insert(Code::name().into_owned(), Code::schema());
    OpenApiBuilder::new()
        .info(info.build())
        .components(Some(components))
        .security(Some([SecurityRequirement::new(KEY, [] as [&str; 0])]))
        .build()
}

/// The document with its problems.
pub(crate) fn document() -> OpenApi {
    let (_, mut document) = super::documented().split_for_parts();
    for (path, item) in &mut document.paths.paths {
        for (takes_body, operation) in
            [(false, &mut item.get), (true, &mut item.post), (true, &mut item.put), (true, &mut item.delete)]
        {
            if let Some(operation) = operation {
                describe_problems(path, takes_body, operation);
                describe_parameters(operation);
            }
        }
    }
    document
}

/// Problems of this operation alone.
fn own(operation: &str) -> &'static [Code] {
    use Code as C;
    match operation {
        "create_agent" => &[
            C::ModeRefuses,
            C::NotFound,
            C::NameTaken,
            C::LevelUnavailable,
            C::NoCapacity,
            C::QuotaExceeded,
            C::IdempotencyMismatch,
        ],
        "get_agent" => &[C::Timeout],
        "pause_agent" | "resume_agent" | "stop_agent" | "start_agent" | "destroy_agent" => {
            &[C::ModeRefuses, C::WrongState, C::PreconditionFailed, C::IdempotencyMismatch]
        }
        "clone_agent" => &[
            C::ModeRefuses,
            C::NameTaken,
            C::WrongState,
            C::LevelUnavailable,
            C::NoCapacity,
            C::QuotaExceeded,
            C::IdempotencyMismatch,
        ],
        "transfer_agent" => {
            &[C::ModeRefuses, C::CannotTransfer, C::PreconditionFailed, C::IdempotencyMismatch]
        }
        "set_agent_policy" => &[C::WrongState, C::PreconditionFailed, C::IdempotencyMismatch],
        "answer_egress_question" => &[C::WrongState, C::IdempotencyMismatch],
        "create_secret" => &[C::NameTaken, C::WrongState, C::IdempotencyMismatch],
        "rotate_secret" => &[C::WrongState, C::IdempotencyMismatch],
        "set_secret_hosts" | "delete_secret" => &[C::InUse],
        "rotate_wrapping_key" => &[C::WrongState],
        "login" => &[C::Unauthenticated, C::SecondFactorRequired, C::TooMany, C::Validation],
        "redeem_reset" => &[C::Unauthenticated, C::Validation, C::TooMany, C::WrongState],
        "accept_invitation" => &[
            C::Unauthenticated,
            C::Forbidden,
            C::NotFound,
            C::Validation,
            C::TooMany,
            C::InUse,
            C::WrongState,
        ],
        "change_password" => &[C::WrongState],
        "begin_second_factor" => &[C::InUse],
        "confirm_second_factor" | "remove_second_factor" => &[C::WrongState],
        "reset_password" => &[C::WrongState],
        "create_user" => &[C::NameTaken],
        "create_account" => &[C::NameTaken, C::WrongState],
        "set_role" | "remove_member" => &[C::InUse, C::WrongState],
        "leave_account" => &[C::InUse, C::WrongState],
        "create_invitation" => &[C::InUse],
        "list_egress_log" | "list_egress_questions" => &[C::NotFound],
        "create_workspace_token" => &[C::WrongState],
        "register_image" | "grant_image" => &[C::IdempotencyMismatch, C::Forbidden],
        "create_key" => &[C::NameTaken, C::IdempotencyMismatch],
        "delete_image" | "delete_key" => &[C::InUse],
        _ => &[],
    }
}

/// What a parameter of this name may be, wherever it stands.
fn describe_parameters(operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let number = matches!(&parameter.schema, Some(RefOr::T(Schema::Object(object)))
            if object.schema_type == SchemaType::Type(Type::Integer));
        let schema = match &*parameter.name {
            "limit" => between(1, query::MAX_LIMIT),
            "wait" if number => between(0, 60),
            "wait" => {
                let states = AgentState::ALL.map(AgentState::as_str).join("|");
                text(&format!("^({states}|settled|reachable)$"))
            }
            "timeout" => text("^(([1-5]?[0-9]|60)s|1m)$"),
            "cursor" if id == "list_egress_log" => text("^[0-9]{1,19}$"),
            "cursor" if id == "get_agent_timeline" => text("^[0-9]{1,9}$"),
            "cursor" if id == "get_usage" => text("^[a-z0-9_-]{1,30}$"),
            "from" | "to" => text("^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
            "by" => text("^(day|agent|level|node)$"),
            "cursor" => text("^[a-z]{3}_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
            "label" => ArrayBuilder::new().items(text("^[!-<>-~]{1,63}=[!-~]{0,255}$")).into(),
            "Idempotency-Key" => text("^[!-~]{1,200}$"),
            "If-Match" => text(r#"^("[0-9]{1,18}"|\*)$"#),
            _ => continue,
        };
        parameter.schema = Some(schema);
    }
}

fn text(pattern: &str) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).into()
}

fn between(least: u32, most: u32) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most)).into()
}

fn describe_problems(path: &str, takes_body: bool, operation: &mut Operation) {
    let open = operation.security.is_some();
    let mut codes = vec![Code::CrossOrigin, Code::Misdirected, Code::Internal, Code::Unavailable];
    if !open {
        codes.extend([Code::Validation, Code::Unauthenticated, Code::Forbidden, Code::ProofRequired]);
        // A session names the account that it acts in.
        codes.extend([Code::NotFound, Code::TooMany]);
    }
    if path.contains("{id}") {
        codes.push(Code::NotFound);
    }
    if takes_body {
        codes.extend([Code::TooLarge, Code::DiskFull]);
    }
    if operation.request_body.is_some() {
        codes.push(Code::UnsupportedMediaType);
    }
    codes.extend(own(operation.operation_id.as_deref().unwrap_or_default()));
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status()).or_default().push(code.as_str());
    }
    for (status, codes) in by_status {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
        let response = ResponseBuilder::new()
            .description(format!("`code` is {}", codes.join(" or ")))
            .content("application/problem+json", content);
        operation.responses.responses.insert(status.to_string(), response.build().into());
    }
}
