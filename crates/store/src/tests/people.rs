//! People: what expires, what is used up, what a race leaves, and what a database from before becomes.

use super::*;
use crate::{Credentials, DataKey, Invited, NewInvitation, NewKey, NewSession, Resets};
use model::people::{Email, KeyScope, Member, Role};
use model::{KeyId, SessionId, UserId};

const HOUR: Duration = Duration::hours(1);
const WEEK: Duration = Duration::days(7);

fn email(name: &str) -> Email {
    format!("{name}@example.com").parse().unwrap()
}

fn word(text: &str) -> Name {
    text.parse().unwrap()
}

async fn person(world: &World, name: &str) -> Credentials {
    let hash = format!("reset-{name}");
    world.store.create_user(Actor::System, &email(name), &word(name), &hash, HOUR).await.unwrap();
    let who = world.store.reset(&hash).await.unwrap().unwrap();
    world.store.redeem_reset(&hash, &who, "a hash").await.unwrap();
    world.store.credentials(&email(name)).await.unwrap().unwrap()
}

fn session<'a>(hash: &'a str) -> NewSession<'a> {
    NewSession { hash, life: WEEK, before: None, rehashed: None, step: None }
}

fn seed(who: &Credentials) -> DataKey {
    DataKey { id: KeyId::new(), account: who.personal, wrapped_by: "one".to_owned(), wrapped: vec![1] }
}

async fn organisation(world: &World, owner: &Credentials) -> AccountId {
    world.store.create_organisation(Actor::System, &word("acme"), owner.user.id).await.unwrap().id
}

/// Invites and lets in.
async fn join(world: &World, account: AccountId, who: &Credentials, role: Role) -> Member {
    let (hash, email) = (format!("join-{}", who.user.id), &who.user.email);
    let new = NewInvitation { account, email, role, person: None, hash: &hash, life: WEEK };
    world.store.invite(Actor::System, &new).await.unwrap();
    let invited = world.store.invited(&hash).await.unwrap().unwrap();
    world.store.join(Actor::User(who.user.id), &invited, &hash, who.user.id).await.unwrap();
    member(world, account, who.user.id).await
}

async fn member(world: &World, account: AccountId, who: UserId) -> Member {
    world.store.member(account, &who.to_string()).await.unwrap()
}

fn later(world: &World, by: Duration) {
    world.clock.0.fetch_add(by.whole_milliseconds() as i64, Ordering::SeqCst);
}

both!(a_reset_is_used_once_and_lasts_its_time);
async fn a_reset_is_used_once_and_lasts_its_time(engine: Engine) {
    let world = World::on(engine).await;
    let ada = person(&world, "ada").await;
    let id = ada.user.id;
    let issue =
        async |hash| world.store.issue_reset(Actor::System, id, Resets::All, hash, HOUR).await.unwrap();
    issue("one").await;
    issue("two").await;
    assert!(world.store.reset("one").await.unwrap().is_none(), "another came in its place");
    let redeemed = world.store.redeem_reset("one", &ada, "x").await;
    assert!(matches!(redeemed, Err(Error::TokenRefused)));
    world.store.begin_session(&ada, &session("s")).await.unwrap();
    let who = world.store.reset("two").await.unwrap().unwrap();
    let (one, two) = tokio::join!(
        world.store.redeem_reset("two", &who, "first"),
        world.store.redeem_reset("two", &who, "other")
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert!(world.store.sitting("s", None).await.unwrap().is_none(), "it ended every session");

    issue("three").await;
    later(&world, HOUR);
    assert!(world.store.reset("three").await.unwrap().is_none());
    let who = world.store.credentials_of(id).await.unwrap();
    assert!(matches!(world.store.redeem_reset("three", &who, "x").await, Err(Error::TokenRefused)));
    world.store.remove_expired().await.unwrap();
    assert_eq!(world.count("SELECT COUNT(*) FROM password_resets").await, 0);
}

both!(a_first_password_that_was_chosen_meanwhile_is_reset_by_nobody_elsewhere);
async fn a_first_password_that_was_chosen_meanwhile_is_reset_by_nobody_elsewhere(engine: Engine) {
    let world = World::on(engine).await;
    let made = world.store.create_user(Actor::System, &email("new"), &word("new"), "first", HOUR).await;
    let id = made.unwrap().0.id;
    let issue = async |resets, hash| world.store.issue_reset(Actor::System, id, resets, hash, HOUR).await;
    issue(Resets::First, "second").await.unwrap();
    let who = world.store.reset("second").await.unwrap().unwrap();
    world.store.redeem_reset("second", &who, "a hash").await.unwrap();
    assert!(matches!(issue(Resets::First, "third").await, Err(Error::Overtaken)));
    assert!(world.store.reset("third").await.unwrap().is_none());
    issue(Resets::All, "fourth").await.unwrap();
}

both!(a_password_is_changed_from_what_it_was);
async fn a_password_is_changed_from_what_it_was(engine: Engine) {
    let world = World::on(engine).await;
    let ada = person(&world, "ada").await;
    let kept = world.store.begin_session(&ada, &session("kept")).await.unwrap().id;
    world.store.begin_session(&ada, &session("gone")).await.unwrap();
    world.store.change_password(&ada, "second", kept).await.unwrap();
    assert!(world.store.sitting("kept", None).await.unwrap().is_some());
    assert!(world.store.sitting("gone", None).await.unwrap().is_none());
    // Whoever checked the password before that change comes too late with all that they do by it.
    assert!(matches!(world.store.change_password(&ada, "third", kept).await, Err(Error::Overtaken)));
    assert!(matches!(world.store.begin_session(&ada, &session("late")).await, Err(Error::Overtaken)));
    assert!(world.store.sitting("late", None).await.unwrap().is_none());
    let now = world.store.credentials_of(ada.user.id).await.unwrap();
    assert_eq!(now.hash.as_deref(), Some("second"));
    let new = NewSession { rehashed: Some("anew"), ..session("new") };
    world.store.begin_session(&now, &new).await.unwrap();
    let now = world.store.credentials_of(ada.user.id).await.unwrap();
    assert_eq!(now.hash.as_deref(), Some("anew"));
}

both!(sessions_end_in_time_and_one_by_one);
async fn sessions_end_in_time_and_one_by_one(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let first = world.store.begin_session(&ada, &session("first")).await.unwrap().id;
    let planted = NewSession { before: Some("first"), ..session("second") };
    world.store.begin_session(&bob, &planted).await.unwrap();
    assert!(world.store.sitting("first", None).await.unwrap().is_none(), "whoever's it was");
    world.store.begin_session(&ada, &session("third")).await.unwrap();
    let third = world.store.sitting("third", None).await.unwrap().unwrap();
    let ended = world.store.end_session(Actor::System, bob.user.id, third.session).await;
    assert!(matches!(ended, Err(Error::NotFound { .. })), "it is not his");
    assert!(matches!(
        world.store.end_session(Actor::System, ada.user.id, first).await,
        Err(Error::NotFound { .. })
    ));
    later(&world, WEEK - Duration::milliseconds(1));
    assert!(world.store.sitting("third", None).await.unwrap().is_some());
    later(&world, Duration::milliseconds(1));
    assert!(world.store.sitting("third", None).await.unwrap().is_none());
    assert!(world.store.sessions(ada.user.id, SessionId::new()).await.unwrap().is_empty());
    world.store.remove_expired().await.unwrap();
    assert_eq!(world.count("SELECT COUNT(*) FROM sessions").await, 0);
}

both!(a_code_is_taken_once_whoever_races);
async fn a_code_is_taken_once_whoever_races(engine: Engine) {
    let world = World::on(engine).await;
    let ada = person(&world, "ada").await;
    let kept = world.store.begin_session(&ada, &session("kept")).await.unwrap().id;
    let first = seed(&ada);
    world.store.begin_factor(Actor::System, ada.user.id, &first).await.unwrap();
    let begun = seed(&ada);
    world.store.begin_factor(Actor::System, ada.user.id, &begun).await.unwrap();
    let confirm = async |seed| world.store.confirm_factor(ada.user.id, seed, 7, kept).await;
    assert!(matches!(confirm(&first).await, Err(Error::Overtaken)), "another was begun since");
    world.store.begin_session(&ada, &session("before")).await.unwrap();
    confirm(&begun).await.unwrap();
    assert!(world.store.sitting("before", None).await.unwrap().is_none());
    assert!(matches!(confirm(&begun).await, Err(Error::Overtaken)));
    assert!(matches!(
        world.store.begin_factor(Actor::System, ada.user.id, &first).await,
        Err(Error::InUse { .. })
    ));

    // A login that began without a code, before there was a factor, comes too late.
    assert!(matches!(world.store.begin_session(&ada, &session("none")).await, Err(Error::Overtaken)));
    let with = |hash, step| NewSession { step: Some(step), ..session(hash) };
    let (one, two) = (with("one", 8), with("two", 8));
    let (one, two) =
        tokio::join!(world.store.begin_session(&ada, &one), world.store.begin_session(&ada, &two));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert!(matches!(world.store.begin_session(&ada, &with("old", 7)).await, Err(Error::TokenRefused)));
    let sitting = world.store.sitting("kept", None).await.unwrap().unwrap();
    assert!(matches!(world.store.prove(&sitting, Some(8)).await, Err(Error::TokenRefused)));
    later(&world, HOUR);
    world.store.prove(&sitting, Some(9)).await.unwrap();
    let proved = world.store.sitting("kept", None).await.unwrap().unwrap().proved_at;
    assert_eq!(proved, world.store.now());
    world.store.remove_factor(Actor::System, ada.user.id).await.unwrap();
    assert!(matches!(world.store.prove(&sitting, Some(10)).await, Err(Error::TokenRefused)));
    world.store.begin_session(&ada, &session("plain")).await.unwrap();
}

both!(an_invitation_is_taken_once);
async fn an_invitation_is_taken_once(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let acme = organisation(&world, &ada).await;
    let address = email("new");
    let new = |hash| NewInvitation {
        account: acme,
        email: &address,
        role: Role::Member,
        person: None,
        hash,
        life: WEEK,
    };
    world.store.invite(Actor::System, &new("one")).await.unwrap();
    world.store.invite(Actor::System, &new("two")).await.unwrap();
    assert_eq!(world.store.invited("one").await.unwrap(), None, "another came in its place");
    let invited = world.store.invited("two").await.unwrap().unwrap();
    let (left, right) = (word("left"), word("right"));
    let (one, two) = tokio::join!(
        world.store.join_anew(&invited, "two", &left, "hash", None),
        world.store.join_anew(&invited, "two", &right, "hash", None),
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(world.count("SELECT COUNT(*) FROM users WHERE email = 'new@example.com'").await, 1);
    assert_eq!(world.count("SELECT COUNT(*) FROM accounts WHERE name IN ('left', 'right')").await, 1);
    let again = world.store.invite(Actor::System, &new("three")).await;
    assert!(matches!(again, Err(Error::InUse { .. })), "a member already");

    let late = NewInvitation { email: &bob.user.email, hash: "late", ..new("late") };
    world.store.invite(Actor::System, &late).await.unwrap();
    let invited: Invited = world.store.invited("late").await.unwrap().unwrap();
    later(&world, WEEK);
    assert!(matches!(
        world.store.join(Actor::User(bob.user.id), &invited, "late", bob.user.id).await,
        Err(Error::TokenRefused)
    ));
    assert_eq!(world.store.invited("late").await.unwrap(), None);
    assert!(world.store.member(acme, "bob@example.com").await.is_err());
    world.store.remove_expired().await.unwrap();
    assert_eq!(world.count("SELECT COUNT(*) FROM invitations").await, 0);
    let other = world.store.invite(Actor::System, &NewInvitation { account: ada.personal, ..new("x") }).await;
    assert!(matches!(other, Err(Error::Personal)), "a personal account has one member");
}

both!(organisations_are_not_made_without_number);
async fn organisations_are_not_made_without_number(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let make = async |who: &Credentials, name: &str| {
        world.store.create_own_organisation(Actor::System, &word(name), who.user.id, None).await
    };
    for time in 0..19 {
        make(&ada, &format!("org-{time}")).await.unwrap();
    }
    let (one, two) = tokio::join!(make(&ada, "one"), make(&ada, "two"));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let refused = one.and(two);
    assert!(matches!(refused, Err(Error::TooManyOrganisations { most: 20 })), "{refused:?}");
    make(&bob, "of-bob").await.unwrap();
    let given = world.store.create_organisation(Actor::System, &word("given"), ada.user.id).await;
    assert!(given.is_ok(), "the operator gives more");
}

both!(the_database_itself_keeps_a_personal_account_to_one_person);
async fn the_database_itself_keeps_a_personal_account_to_one_person(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let insert = "INSERT INTO memberships (account, person, role, created_at) VALUES ($1, $2, $3, 0)";
    let row =
        |account: AccountId, role: &str| [account.to_string(), bob.user.id.to_string(), role.to_owned()];
    assert!(world.raw(insert, &row(ada.personal, "owner")).await.is_err());
    assert!(world.raw(insert, &row(world.account, "root")).await.is_err());
    assert!(world.raw(insert, &row(AccountId::new(), "member")).await.is_err());
    assert_eq!(world.raw(insert, &row(world.account, "member")).await.unwrap(), 1);
    assert!(world.raw(insert, &row(world.account, "admin")).await.is_err(), "once in each account");
    let taken = world.store.create_user(Actor::System, &ada.user.email, &word("ada-2"), "x", HOUR).await;
    assert!(matches!(taken, Err(Error::EmailTaken { .. })));
    assert_eq!(world.count("SELECT COUNT(*) FROM accounts WHERE name = 'ada-2'").await, 0);
}

both!(an_account_is_never_left_to_nobody);
async fn an_account_is_never_left_to_nobody(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let acme = organisation(&world, &ada).await;
    let of_ada = member(&world, acme, ada.user.id).await;
    let by = Actor::User(ada.user.id);
    assert!(matches!(world.store.remove_member(by, acme, &of_ada).await, Err(Error::InUse { .. })));
    assert!(matches!(world.store.set_role(by, acme, &of_ada, Role::Admin).await, Err(Error::InUse { .. })));
    assert_eq!(member(&world, acme, ada.user.id).await, of_ada, "nothing of it was done");

    let of_bob = join(&world, acme, &bob, Role::Owner).await;
    let (one, two) = tokio::join!(
        world.store.remove_member(by, acme, &of_ada),
        world.store.set_role(Actor::User(bob.user.id), acme, &of_bob, Role::Member),
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(
        world
            .count(
                "SELECT COUNT(*) FROM memberships m JOIN accounts a ON a.id = m.account
        WHERE a.name = 'acme' AND m.role = 'owner'"
            )
            .await,
        1
    );
    // What was decided on what somebody was is not done to what they are now.
    let stale = world.store.set_role(by, acme, &Member { role: Role::Admin, ..of_bob }, Role::Owner).await;
    assert!(matches!(stale, Err(Error::Overtaken)));
}

both!(keys_go_with_their_person_and_end_in_time);
async fn keys_go_with_their_person_and_end_in_time(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let acme = organisation(&world, &ada).await;
    let of_bob = join(&world, acme, &bob, Role::Admin).await;
    let (name, until) = (word("key"), world.store.now() + HOUR);
    let new = NewKey {
        account: acme,
        name: &name,
        hash: "key",
        role: Role::Admin,
        scopes: &[KeyScope::Agents],
        person: Some(bob.user.id),
        expires_at: Some(until),
    };
    world.store.create_key(Actor::System, &new, None).await.unwrap();
    let role = async || world.store.bearer("key").await.unwrap().map(|bearer| bearer.role);
    assert_eq!(role().await, Some(Role::Admin));
    world.store.set_role(Actor::System, acme, &of_bob, Role::Member).await.unwrap();
    assert_eq!(role().await, Some(Role::Member), "also where it is remembered");
    let of_bob = member(&world, acme, bob.user.id).await;
    world.store.set_role(Actor::System, acme, &of_bob, Role::Owner).await.unwrap();
    assert_eq!(role().await, Some(Role::Admin), "no more than it was made for");
    // A reset takes the keys of its person, wherever they are.
    let reset = word("reset");
    let own = NewKey { account: bob.personal, name: &reset, hash: "reset", expires_at: None, ..new.clone() };
    world.store.create_key(Actor::System, &own, None).await.unwrap();
    let kept =
        NewKey { hash: "kept", person: Some(ada.user.id), name: &reset, expires_at: None, ..new.clone() };
    world.store.create_key(Actor::System, &kept, None).await.unwrap();
    world.store.issue_reset(Actor::System, bob.user.id, Resets::All, "again", HOUR).await.unwrap();
    assert!(world.store.bearer("reset").await.unwrap().is_some(), "not before it is redeemed");
    let who = world.store.reset("again").await.unwrap().unwrap();
    world.store.redeem_reset("again", &who, "another hash").await.unwrap();
    assert_eq!(role().await, None);
    assert!(world.store.bearer("reset").await.unwrap().is_none());
    assert!(world.store.bearer("kept").await.unwrap().is_some());
    world.store.create_key(Actor::System, &new, None).await.unwrap();
    assert_eq!(role().await, Some(Role::Admin));
    later(&world, HOUR);
    assert_eq!(role().await, None);

    let other = word("other");
    let new = NewKey { name: &other, hash: "other", expires_at: None, ..new };
    world.store.create_key(Actor::System, &new, None).await.unwrap();
    assert!(world.store.bearer("other").await.unwrap().is_some());
    let of_bob = member(&world, acme, bob.user.id).await;
    world.store.remove_member(Actor::System, acme, &of_bob).await.unwrap();
    assert!(world.store.bearer("other").await.unwrap().is_none());
    assert_eq!(world.store.keys(acme, None, None, 10).await.unwrap().items.len(), 1, "that of somebody else");
}

both!(when_it_was_used_is_written_for_all_at_once);
async fn when_it_was_used_is_written_for_all_at_once(engine: Engine) {
    let world = World::on(engine).await;
    let ada = person(&world, "ada").await;
    world.store.begin_session(&ada, &session("s")).await.unwrap();
    later(&world, HOUR);
    world.store.bearer("default").await.unwrap().unwrap();
    world.store.sitting("s", None).await.unwrap().unwrap();
    assert_eq!(world.store.keys(world.account, None, None, 10).await.unwrap().items[0].last_used, None);
    world.store.write_uses().await.unwrap();
    let now = Some(world.store.now());
    assert_eq!(world.store.keys(world.account, None, None, 10).await.unwrap().items[0].last_used, now);
    let sessions = world.store.sessions(ada.user.id, SessionId::new()).await.unwrap();
    assert_eq!(Some(sessions[0].seen_at), now);
    world.store.write_uses().await.unwrap();
}

#[tokio::test]
async fn an_installation_from_before_there_were_people_keeps_its_operator_and_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cofferdam.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options.foreign_keys(true)).await.unwrap();
    let before = crate::db::sqlite_migrations().iter().take(8).cloned().collect();
    sqlx::migrate::Migrator::with_migrations(before).run(&mut old).await.unwrap();
    let (account, other, key) = (AccountId::new(), AccountId::new(), KeyId::new());
    let rows = format!(
        "INSERT INTO accounts (id, name, operator, created_at) VALUES ('{account}', 'default', 1, 0), ('{other}', 'o', 0, 0);
         INSERT INTO api_keys (id, account, name, hash, created_at) VALUES ('{key}', '{account}', 'first', 'hash', 0),
             ('{}', '{other}', 'first', 'theirs', 0)",
        KeyId::new(),
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&mut old).await.unwrap();
    old.close().await.unwrap();

    let store =
        Store::open(&path, Arc::new(HeldClock(AtomicI64::new(0))), Arc::new(|_, _| {})).await.unwrap();
    assert_eq!(store.operator().await.unwrap(), Some(account));
    let bearer = store.bearer("hash").await.unwrap().unwrap();
    assert_eq!((bearer.key, bearer.account, bearer.operator), (key, account, true));
    assert_eq!((bearer.role, bearer.scopes, bearer.person), (Role::Owner, vec![KeyScope::Admin], None));
    assert_eq!(bearer.expires_at, None);
    assert!(!store.bearer("theirs").await.unwrap().unwrap().operator);
    for check in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
        let found = query(check).fetch_all(store.0.writer.pool()).await.unwrap();
        let said: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        assert!(said.is_empty() || said == ["ok"], "{check}: {said:?}");
    }
    let ada = store.create_user(Actor::System, &email("ada"), &word("ada"), "reset", HOUR).await.unwrap().0;
    store.create_organisation(Actor::System, &word("acme"), ada.id).await.unwrap();
}

both!(what_was_decided_on_a_standing_is_made_only_while_it_lasts);
async fn what_was_decided_on_a_standing_is_made_only_while_it_lasts(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let acme = organisation(&world, &ada).await;
    let of_bob = join(&world, acme, &bob, Role::Admin).await;
    let session = world.store.begin_session(&bob, &session("bobs")).await.unwrap().id;
    let name = word("key");
    let key =
        NewKey { person: Some(bob.user.id), role: Role::Admin, ..NewKey::of_account(acme, &name, "key") };
    let key = world.store.create_key(Actor::System, &key, None).await.unwrap().0.id;
    let person = bob.user.id;
    let sits = |role| Actor::Session { session, person, standing: Some((acme, role)) };
    let holds = |role| Actor::Key { key, role };
    let tried = AtomicI64::new(0);
    let make = async |actor| {
        let name = word(&format!("k{}", tried.fetch_add(1, Ordering::SeqCst)));
        let new = NewKey::of_account(acme, &name, name.as_str());
        world.store.create_key(actor, &new, None).await.map(drop)
    };
    for actor in [sits(Role::Admin), holds(Role::Admin), sits(Role::Member), Actor::System] {
        make(actor).await.unwrap();
    }
    world.store.set_role(Actor::System, acme, &of_bob, Role::Member).await.unwrap();
    for actor in [sits(Role::Admin), holds(Role::Admin), sits(Role::Owner)] {
        assert!(matches!(make(actor).await, Err(Error::RoleLowered)), "{actor:?}");
    }
    for actor in [sits(Role::Member), holds(Role::Member)] {
        make(actor).await.unwrap();
    }
    let agent = world.agent("a").await;
    let of_bob = member(&world, acme, person).await;
    world.store.remove_member(Actor::System, acme, &of_bob).await.unwrap();
    let issue = async |actor| world.store.token_issued(actor, &agent, serde_json::json!({})).await;
    assert!(matches!(issue(sits(Role::Member)).await, Err(Error::MembershipEnded)));
    assert!(matches!(issue(holds(Role::Member)).await, Err(Error::CredentialEnded)));
    // To themselves they do what they did, until the session is over.
    let own = Actor::Session { session, person, standing: None };
    world.store.begin_factor(own, person, &seed(&bob)).await.unwrap();
    later(&world, WEEK);
    let late = world.store.begin_factor(own, person, &seed(&bob)).await;
    assert!(matches!(late, Err(Error::CredentialEnded)));
    assert_eq!(world.count("SELECT COUNT(*) FROM api_keys WHERE name LIKE 'k%'").await, 6);
    assert_eq!(world.count("SELECT COUNT(*) FROM events WHERE kind = 'agent.token_issued'").await, 0);
}

both!(a_standing_that_another_process_ends_is_over_at_once);
async fn a_standing_that_another_process_ends_is_over_at_once(engine: Engine) {
    let world = World::on(engine).await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    let acme = organisation(&world, &ada).await;
    let of_bob = join(&world, acme, &bob, Role::Admin).await;
    let name = word("key");
    let key =
        NewKey { person: Some(bob.user.id), role: Role::Admin, ..NewKey::of_account(acme, &name, "key") };
    let key = world.store.create_key(Actor::System, &key, None).await.unwrap().0.id;
    let other = world.twin(None).await;
    let make = async |name: &str| {
        let (actor, name) = (Actor::Key { key, role: Role::Admin }, word(name));
        other.create_key(actor, &NewKey::of_account(acme, &name, name.as_str()), None).await.map(drop)
    };
    assert!(other.bearer("key").await.unwrap().is_some());
    make("first").await.unwrap();
    // Whether the other has heard of it or not.
    world.store.set_role(Actor::System, acme, &of_bob, Role::Member).await.unwrap();
    assert!(matches!(make("second").await, Err(Error::RoleLowered)));
    let of_bob = member(&world, acme, bob.user.id).await;
    world.store.remove_member(Actor::System, acme, &of_bob).await.unwrap();
    assert!(matches!(make("third").await, Err(Error::CredentialEnded)));
    assert_eq!(world.count("SELECT COUNT(*) FROM api_keys WHERE name IN ('second', 'third')").await, 0);
}

both!(a_use_that_is_told_late_hides_none_that_came_after_it);
async fn a_use_that_is_told_late_hides_none_that_came_after_it(engine: Engine) {
    let world = World::on(engine).await;
    let ada = person(&world, "ada").await;
    world.store.begin_session(&ada, &session("s")).await.unwrap();
    let other = world.twin(None).await;
    let used = async |store: &crate::Store| {
        store.bearer("default").await.unwrap().unwrap();
        store.sitting("s", None).await.unwrap().unwrap();
    };
    used(&world.store).await;
    later(&world, HOUR);
    used(&other).await;
    other.write_uses().await.unwrap();
    world.store.write_uses().await.unwrap();
    let now = world.store.now();
    let keys = world.store.keys(world.account, None, None, 10).await.unwrap().items;
    assert_eq!(keys[0].last_used, Some(now));
    assert_eq!(world.store.sessions(ada.user.id, SessionId::new()).await.unwrap()[0].seen_at, now);
}
