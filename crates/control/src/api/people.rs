//! `/v1/session`, `/v1/users`, `/v1/accounts`, `/v1/members`, `/v1/invitations` and what belongs to them.

use super::extract::{Anybodys, Empty, Id, Json, Private};
use super::query::{Query, page};
use crate::app::{App, factors, invitations, members, sessions, users};
use crate::auth::{Caller, Perhaps, cookie};
use crate::peer::Client;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use model::api::Page;
use model::people::{
    AcceptInvitation, Account, ChangePassword, ConfirmFactor, CreateAccount, CreateInvitation, CreateUser,
    Invitation, LoggedIn, Login, Member, NewFactor, Prove, RedeemReset, Reset, Session, SetRole, User,
};
use std::sync::Arc;

type Made<T> = Result<(StatusCode, axum::Json<T>), Fault>;
type Cookie = [(HeaderName, HeaderValue); 1];

/// Logs in. The session is a cookie, and no answer shows it.
#[utoipa::path(post, path = "/v1/session", tag = "people", operation_id = "login", security(()), request_body = Login,
    responses((status = 201, description = "Who is logged in", body = LoggedIn)))]
pub(super) async fn login(
    State(state): State<Arc<App>>,
    from: Client,
    headers: HeaderMap,
    Anybodys(request): Anybodys<Login>,
) -> Result<(StatusCode, Cookie, axum::Json<LoggedIn>), Fault> {
    cookie::own_origin(&headers)?;
    let before = cookie::session(&headers).and_then(Result::ok);
    let (told, token) = sessions::login(&state, from, &request, before).await?;
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, cookie::begin(token.expose()))], axum::Json(told)))
}

/// Tells who is logged in, and where they belong.
#[utoipa::path(get, path = "/v1/session", tag = "people", operation_id = "get_session",
    responses((status = 200, description = "Who", body = LoggedIn)))]
pub(super) async fn current(
    State(state): State<Arc<App>>,
    caller: Caller,
) -> Result<axum::Json<LoggedIn>, Fault> {
    Ok(axum::Json(sessions::current(&state, &caller).await?))
}

/// Logs out.
#[utoipa::path(delete, path = "/v1/session", tag = "people", operation_id = "logout",
    responses((status = 204, description = "The session is over")))]
pub(super) async fn logout(
    State(state): State<Arc<App>>,
    caller: Caller,
    _: Empty,
) -> Result<(StatusCode, Cookie), Fault> {
    sessions::logout(&state, &caller).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie::end())]))
}

/// Shows the password or a code once more, for what asks for it.
#[utoipa::path(post, path = "/v1/session/proof", tag = "people", operation_id = "prove", request_body = Prove,
    responses((status = 204, description = "It is fresh for five minutes")))]
pub(super) async fn prove(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Private(request): Private<Prove>,
) -> Result<StatusCode, Fault> {
    sessions::prove(&state, &caller, from, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the person's sessions, newest first.
#[utoipa::path(get, path = "/v1/sessions", tag = "people", operation_id = "list_sessions",
    responses((status = 200, description = "All of them", body = Vec<Session>)))]
pub(super) async fn sessions_(
    State(state): State<Arc<App>>,
    caller: Caller,
) -> Result<axum::Json<Vec<Session>>, Fault> {
    Ok(axum::Json(sessions::list(&state, &caller).await?))
}

/// Ends one of the person's sessions.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "people", operation_id = "end_session",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is over")))]
pub(super) async fn end_session(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    sessions::end(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the person's password. Their other sessions end.
#[utoipa::path(put, path = "/v1/password", tag = "people", operation_id = "change_password", request_body = ChangePassword,
    responses((status = 204, description = "It is changed")))]
pub(super) async fn change_password(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Private(request): Private<ChangePassword>,
) -> Result<StatusCode, Fault> {
    users::change_password(&state, &caller, from, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets a password by a token, once. All sessions of its person end.
#[utoipa::path(post, path = "/v1/password-reset", tag = "people", operation_id = "redeem_reset", security(()),
    request_body = RedeemReset, responses((status = 200, description = "Whose password it is", body = User)))]
pub(super) async fn redeem(
    State(state): State<Arc<App>>,
    from: Client,
    Anybodys(request): Anybodys<RedeemReset>,
) -> Result<axum::Json<User>, Fault> {
    Ok(axum::Json(users::redeem(&state, from, &request).await?))
}

/// Makes a second factor, which is shown this once and waits for its first code.
#[utoipa::path(post, path = "/v1/second-factor", tag = "people", operation_id = "begin_second_factor",
    responses((status = 201, description = "Its seed", body = NewFactor)))]
pub(super) async fn begin_factor(State(state): State<Arc<App>>, caller: Caller, _: Empty) -> Made<NewFactor> {
    Ok((StatusCode::CREATED, axum::Json(factors::begin(&state, &caller).await?)))
}

/// Has every login ask for the second factor from here on.
#[utoipa::path(put, path = "/v1/second-factor", tag = "people", operation_id = "confirm_second_factor",
    request_body = ConfirmFactor, responses((status = 204, description = "It is on")))]
pub(super) async fn confirm_factor(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Private(request): Private<ConfirmFactor>,
) -> Result<StatusCode, Fault> {
    factors::confirm(&state, &caller, from, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the person's second factor.
#[utoipa::path(delete, path = "/v1/second-factor", tag = "people", operation_id = "remove_second_factor",
    responses((status = 204, description = "It is off")))]
pub(super) async fn remove_factor(
    State(state): State<Arc<App>>,
    caller: Caller,
    _: Empty,
) -> Result<StatusCode, Fault> {
    factors::remove(&state, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a person known; for operators.
#[utoipa::path(post, path = "/v1/users", tag = "people", operation_id = "create_user", request_body = CreateUser,
    responses((status = 201, description = "The person, and a token that sets their password", body = Reset)))]
pub(super) async fn create_user(
    State(state): State<Arc<App>>,
    caller: Caller,
    Json(request): Json<CreateUser>,
) -> Made<Reset> {
    Ok((StatusCode::CREATED, axum::Json(users::create(&state, &caller, &request).await?)))
}

/// Lists people, newest first; for operators.
#[utoipa::path(get, path = "/v1/users", tag = "people", operation_id = "list_users",
    responses((status = 200, description = "A page", body = Page<User>)))]
pub(super) async fn list_users(
    State(state): State<Arc<App>>,
    _: Caller,
    query: Query,
) -> Result<axum::Json<Page<User>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = state.store.users(paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |user| user.id.to_string(), |user| user)))
}

/// Makes a token that sets another password for somebody; for operators.
#[utoipa::path(post, path = "/v1/users/{id}/reset", tag = "people", operation_id = "reset_password",
    params(("id" = String, Path, description = "Id or address")),
    responses((status = 201, description = "The token, this once", body = Reset)))]
pub(super) async fn reset(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Id(id): Id,
    _: Empty,
) -> Made<Reset> {
    Ok((StatusCode::CREATED, axum::Json(users::reset(&state, &caller, from, &id).await?)))
}

/// Takes the second factor from somebody who lost it; for operators.
#[utoipa::path(delete, path = "/v1/users/{id}/second-factor", tag = "people", operation_id = "remove_users_second_factor",
    params(("id" = String, Path, description = "Id or address")),
    responses((status = 204, description = "It is off")))]
pub(super) async fn remove_users_factor(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    users::remove_factor(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an organisation.
#[utoipa::path(post, path = "/v1/accounts", tag = "people", operation_id = "create_account", request_body = CreateAccount,
    responses((status = 201, description = "The organisation", body = Account)))]
pub(super) async fn create_account(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Json(request): Json<CreateAccount>,
) -> Made<Account> {
    Ok((StatusCode::CREATED, axum::Json(users::create_account(&state, &caller, from, &request).await?)))
}

/// Lists where the caller belongs.
#[utoipa::path(get, path = "/v1/accounts", tag = "people", operation_id = "list_accounts",
    responses((status = 200, description = "All of them", body = Vec<Account>)))]
pub(super) async fn accounts(
    State(state): State<Arc<App>>,
    caller: Caller,
) -> Result<axum::Json<Vec<Account>>, Fault> {
    Ok(axum::Json(users::accounts(&state, &caller).await?))
}

/// Lists the members of the account.
#[utoipa::path(get, path = "/v1/members", tag = "people", operation_id = "list_members",
    responses((status = 200, description = "A page", body = Page<Member>)))]
pub(super) async fn list_members(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Member>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = state.store.members(caller.account, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |member| member.user.to_string(), |member| member)))
}

/// Makes a member something else.
#[utoipa::path(put, path = "/v1/members/{id}", tag = "people", operation_id = "set_role", request_body = SetRole,
    params(("id" = String, Path, description = "Id or address")),
    responses((status = 200, description = "The member", body = Member)))]
pub(super) async fn set_role(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    Json(request): Json<SetRole>,
) -> Result<axum::Json<Member>, Fault> {
    Ok(axum::Json(members::set_role(&state, &caller, &id, request.role).await?))
}

/// Removes a member, with the keys that they made.
#[utoipa::path(delete, path = "/v1/members/{id}", tag = "people", operation_id = "remove_member",
    params(("id" = String, Path, description = "Id or address")),
    responses((status = 204, description = "They are no member any more")))]
pub(super) async fn remove_member(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    members::remove(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leaves the account.
#[utoipa::path(delete, path = "/v1/membership", tag = "people", operation_id = "leave_account",
    responses((status = 204, description = "The caller is no member any more")))]
pub(super) async fn leave(
    State(state): State<Arc<App>>,
    caller: Caller,
    _: Empty,
) -> Result<StatusCode, Fault> {
    members::leave(&state, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Invites somebody. The token is in this answer alone.
#[utoipa::path(post, path = "/v1/invitations", tag = "people", operation_id = "create_invitation",
    request_body = CreateInvitation, responses((status = 201, description = "The invitation", body = Invitation)))]
pub(super) async fn invite(
    State(state): State<Arc<App>>,
    caller: Caller,
    from: Client,
    Json(request): Json<CreateInvitation>,
) -> Made<Invitation> {
    Ok((StatusCode::CREATED, axum::Json(invitations::create(&state, &caller, from, &request).await?)))
}

/// Lists invitations that nobody has taken yet.
#[utoipa::path(get, path = "/v1/invitations", tag = "people", operation_id = "list_invitations",
    responses((status = 200, description = "A page", body = Page<Invitation>)))]
pub(super) async fn list_invitations(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Invitation>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = state.store.invitations(caller.account, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |invitation| invitation.id.to_string(), |invitation| invitation)))
}

/// Takes an invitation back.
#[utoipa::path(delete, path = "/v1/invitations/{id}", tag = "people", operation_id = "revoke_invitation",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is good for nothing any more")))]
pub(super) async fn revoke_invitation(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    invitations::revoke(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes an invitation, once.
#[utoipa::path(post, path = "/v1/invitations/accept", tag = "people", operation_id = "accept_invitation", security(()),
    request_body = AcceptInvitation, responses((status = 200, description = "The account", body = Account)))]
pub(super) async fn accept(
    State(state): State<Arc<App>>,
    Perhaps(caller): Perhaps,
    from: Client,
    Anybodys(request): Anybodys<AcceptInvitation>,
) -> Result<axum::Json<Account>, Fault> {
    Ok(axum::Json(invitations::accept(&state, caller.as_ref(), from, &request).await?))
}
