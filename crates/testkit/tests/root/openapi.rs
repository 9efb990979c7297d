//! The served OpenAPI document, held against the API that it describes by schemathesis: every endpoint, with requests that
//! the document allows and with such as it does not.

use std::fs;
use std::process::Command;
use testkit::World;

/// Of these a schema cannot say all: sizes and times within bounds, one of two parameters, things that have to be there.
/// `VALIDATION_ERROR` is an honest answer to what the document seems to allow.
const BOUNDED: [(&str, &str); 5] = [
    ("POST", "/v1/agents"),
    ("PUT", "/v1/agents/{id}/policy"),
    ("POST", "/v1/images"),
    ("GET", "/v1/egress/log"),
    ("GET", "/v1/usage"),
];

#[test]
fn the_api_keeps_to_its_document() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("seen", &[]);
    let shown = world.cli(&["show", "seen", "-o", "json"]).json();
    // Nothing waits; `If-Match` comes without the quotes of its texts otherwise. What is too long, too often or not now is refused
    // as such: so many credentials that are not valid would be, which `control`'s tests of access try one by one. An agent that
    // is destroyed can be looked at. A limit of a quota may be a larger number than 64 bits with a sign have.
    let mut config = format!(
        "headers = {{ Authorization = \"Bearer ${{COFFERDAM_API_KEY}}\" }}\n\
         parameters = {{ timeout = \"0s\", If-Match = \"*\" }}\n\
         checks.ignored_auth.enabled = false\n\
         checks.negative_data_rejection.expected-statuses = [400, 401, 403, 404, 406, 409, 413, 415, 422, 428, 429, \"5xx\"]\n\n\
         [[operations]]\ninclude-path-regex = '^/v1/agents/\\{{id\\}}'\nparameters = {{ id = {} }}\n\
         checks.use_after_free.enabled = false\n\n\
         [[operations]]\ninclude-path = \"/v1/accounts/{{id}}/quota\"\nchecks.negative_data_rejection.enabled = false\n\n\
         [[operations]]\ninclude-path-regex = '^/v1/egress/'\nparameters = {{ wait = 0 }}\n",
        shown["id"]
    );
    for (method, path) in BOUNDED {
        config += &format!(
            "\n[[operations]]\ninclude-path = \"{path}\"\ninclude-method = \"{method}\"\n\
             checks.positive_data_acceptance.enabled = false\n"
        );
    }
    let file = world.dir().join("schemathesis.toml");
    fs::write(&file, config).expect("its configuration");
    let output = Command::new(testkit::tools().join("schemathesis/bin/schemathesis"))
        .current_dir(world.dir())
        .env("COFFERDAM_API_KEY", world.api_key())
        .arg("--config-file")
        .arg(&file)
        .args(["run", &format!("http://{}/v1/openapi.json", world.control_address())])
        // The same requests in each run.
        .args(["--generation-deterministic", "--max-examples", "10", "--no-color", "--continue-on-failure"])
        .output()
        .expect("schemathesis: `cargo xtask setup` installs it");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
