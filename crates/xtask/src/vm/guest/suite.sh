# Puts what was built where it was built, because tests know their own paths, and runs the tests.
mkdir -p "$root/crates" "$target/release/deps"
cp /job/release/cofferdam* "$target/release/"
cp /job/Cargo.toml "$root/"
cp -r /job/release/testkit-images "$target/release/"
mount --bind /job/release/deps "$target/release/deps"
mount --bind /job/crates "$root/crates"
cd "$root" || exit
# All of it runs many times slower here.
cat >/run/nextest.toml <<'CONFIG'
[profile.default]
slow-timeout = { period = "60s", terminate-after = 12 }
# The longest first, so that the others run beside it. What takes something from all agents at once, alone.
overrides = [
    { filter = 'test(attacks::)', priority = 100 },
    { filter = 'test(a_profile_that_is_taken_away_is_missed) | test(a_unit_lives_and_ends_with_its_agent)', threads-required = 'num-test-threads' },
]
CONFIG
# Here nothing ever ran: worlds that come up at once would all make the platform's user.
useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cofferdam-control
export CI=true COFFERDAM_TEST_PATIENCE=10
"$target/release/cofferdam" doctor
/job/tests/cargo-nextest nextest run --no-fail-fast --config-file /run/nextest.toml --user-config-file none \
    --binaries-metadata /job/tests/binaries.json --cargo-metadata /job/tests/metadata.json \
    --filterset "$filter" --color never --show-progress none
