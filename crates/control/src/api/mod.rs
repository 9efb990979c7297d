//! HTTP: handlers parse, call `app`, and convert. Nothing is decided here but the shape of a request.

mod agents;
mod audit;
mod clones;
mod egress;
mod events;
mod extract;
mod images;
mod keys;
mod meta;
mod node;
mod nodes;
mod openapi;
mod people;
mod policies;
mod query;
mod quotas;
mod secrets;
mod shield;
mod transfers;
mod usage;

use crate::app::App;
use crate::problems::Fault;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use model::{Code, Problem};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use openapi::document;
pub(crate) use shield::hosts;

fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(agents::create, agents::list))
        .routes(routes!(agents::get, agents::destroy))
        .routes(routes!(agents::pause))
        .routes(routes!(agents::resume))
        .routes(routes!(agents::stop))
        .routes(routes!(agents::start))
        .routes(routes!(agents::token))
        .routes(routes!(agents::evidence))
        .routes(routes!(agents::timeline))
        .routes(routes!(transfers::transfer))
        .routes(routes!(clones::clone))
        .routes(routes!(policies::get, policies::set))
        .routes(routes!(images::register, images::list))
        .routes(routes!(images::get, images::delete))
        .routes(routes!(images::diff))
        .routes(routes!(images::grant))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::delete))
        .routes(routes!(nodes::list))
        .routes(routes!(events::list))
        .routes(routes!(audit::entries))
        .routes(routes!(audit::receipt))
        .routes(routes!(egress::log))
        .routes(routes!(egress::questions))
        .routes(routes!(egress::answer))
        .routes(routes!(egress::remembered))
        .routes(routes!(egress::forget))
        .routes(routes!(secrets::create, secrets::list))
        .routes(routes!(secrets::get, secrets::delete))
        .routes(routes!(secrets::rotate))
        .routes(routes!(secrets::set_hosts))
        .routes(routes!(secrets::rotate_data_key))
        .routes(routes!(secrets::rotate_wrapping_key))
        .routes(routes!(people::login, people::current, people::logout))
        .routes(routes!(people::prove))
        .routes(routes!(people::sessions_))
        .routes(routes!(people::end_session))
        .routes(routes!(people::change_password))
        .routes(routes!(people::redeem))
        .routes(routes!(people::begin_factor, people::confirm_factor, people::remove_factor))
        .routes(routes!(people::create_user, people::list_users))
        .routes(routes!(people::reset))
        .routes(routes!(people::remove_users_factor))
        .routes(routes!(people::create_account, people::accounts))
        .routes(routes!(people::list_members))
        .routes(routes!(people::set_role, people::remove_member))
        .routes(routes!(people::leave))
        .routes(routes!(people::invite, people::list_invitations))
        .routes(routes!(people::revoke_invitation))
        .routes(routes!(people::accept))
        .routes(routes!(quotas::show))
        .routes(routes!(usage::show))
        .routes(routes!(quotas::set))
        .routes(routes!(meta::whoami))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::openapi))
}

/// Everything that control answers.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (public, _) = documented().split_for_parts();
    let nodes = Router::new()
        .route("/node/v1/enroll", post(node::enroll))
        .route("/node/v1/token", post(node::token))
        .route("/node/v1/desired", get(node::desired))
        .route("/node/v1/observed", post(node::observed))
        .route("/node/v1/egress", post(node::egress))
        .route("/node/v1/images", get(node::images))
        .route("/node/v1/agents/{id}/secrets", post(node::secrets));
    public
        .merge(nodes)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(app.clone(), shield::shield))
        .with_state(app)
}

async fn no_such_path() -> Fault {
    let problem = Problem::new(Code::NotFound, "there is nothing at this path");
    problem.remedy("GET /v1/openapi.json describes every path").into()
}

async fn no_such_method() -> Fault {
    let problem = Problem::new(Code::MethodNotAllowed, "this path has no such method");
    problem.remedy("GET /v1/openapi.json describes every method").into()
}
