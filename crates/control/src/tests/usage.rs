//! Usage: what an account used, whoever asks, and nothing of others.

use super::people::{ACME, Organisation};
use super::world::{Machine, World};
use crate::tasks::usage::settle;
use model::agent::Observed;
use serde_json::{Value, json};
use time::Duration;
use time::macros::datetime;

#[tokio::test]
async fn an_account_sees_what_it_used_and_nobody_else_does() {
    let world = World::new().await;
    let mut machine = Machine::enrolled(&world, "node-1", 4).await;
    let now = world.app.store.now();
    // Noon of a day in the middle of a month to come.
    let noon = datetime!(2037-05-14 12:00 UTC);
    world.clock.forward(noon - now);
    machine.renew(&world).await;
    let org = Organisation::new(&world).await;
    world.image().await;
    let resources = json!({"cpus": 2.0, "memory": "1GiB", "disk": "4GiB"});
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let body = json!({"name": name, "image": "debian", "resources": resources});
        let id = world.post("/v1/agents", body).await.expect(201)["id"].as_str().unwrap().to_owned();
        machine.saw(&world, &id, 1, Observed::Running).await;
        ids.push(id);
    }
    world.clock.forward(Duration::hours(1));
    world.post(&format!("/v1/agents/{}/pause", ids[1]), json!({})).await.expect(200);
    machine.saw(&world, &ids[1], 2, Observed::Paused).await;
    world.clock.forward(Duration::hours(1));
    let day = world.get("/v1/usage?from=2037-05-14&to=2037-05-15").await.expect(200);
    let used = json!({"key": "2037-05-14", "running_seconds": 3 * 3600, "paused_seconds": 3600,
        "kept_seconds": 4 * 3600, "cpu_core_seconds": 6 * 3600, "memory_gib_seconds": 4 * 3600,
        "disk_gib_seconds": 16 * 3600, "open": true});
    assert_eq!(day["items"], json!([used]));
    // Until the day is over, and has been for a while, the task waits for it.
    let left = settle(&world.app).await.unwrap();
    assert!(left <= std::time::Duration::from_secs(6 * 3600));
    world.clock.forward(Duration::hours(10) + Duration::minutes(9));
    let left = settle(&world.app).await.unwrap();
    assert!(left <= std::time::Duration::from_secs(62), "{left:?}");
    world.clock.forward(Duration::minutes(1));
    settle(&world.app).await.unwrap();
    let told = world.get("/v1/usage").await.expect(200);
    assert_eq!((&told["from"], &told["to"]), (&json!("2037-05-01"), &json!("2037-05-16")));
    let open: Vec<_> = told["items"].as_array().unwrap().iter().map(|item| &item["open"]).collect();
    assert_eq!(open, [&json!(false), &json!(true)]);
    // Page by page, each with the sum of all.
    let mut path = "/v1/usage?by=agent&limit=1".to_owned();
    let mut names = Vec::new();
    loop {
        let page = world.get(&path).await.expect(200);
        assert_eq!(page["total"], told["total"]);
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["name"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/usage?by=agent&limit=1&cursor={next}");
    }
    names.sort_by_key(Value::to_string);
    assert_eq!(names, [json!("a"), json!("b")]);
    for by in ["level", "node"] {
        let by = world.get(&format!("/v1/usage?by={by}")).await.expect(200);
        assert_eq!((by["items"].as_array().unwrap().len(), &by["total"]), (1, &told["total"]));
    }
    // Of others there is nothing.
    for by in ["day", "agent", "level", "node"] {
        let path = format!("/v1/usage?by={by}");
        let theirs = org.owner.call_in(&world, ACME, "GET", &path, None).await.expect(200);
        assert_eq!((&theirs["items"], &theirs["total"]["kept_seconds"]), (&json!([]), &json!(0)));
    }
    for (query, field) in [
        ("by=account", "by"),
        ("from=2037-02-29", "from"),
        ("from=2037-05-14&to=2037-05-14", "to"),
        ("from=1990-01-01", "from"),
        ("month=5", "month"),
    ] {
        let answer = world.get(&format!("/v1/usage?{query}")).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{query}");
    }
}
