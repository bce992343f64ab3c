//! A vault in a bucket: what is taken in is there and comes back, and what cannot be is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stratavore_testkit::s3::{BUCKET, Fault, KEY, REGION, S3, SECRET};
use stratavore_testkit::world::World;

use crate::vault::{ONE, TWO, put, transcript, world};

fn in_bucket(server: &S3) -> World {
    let world = world();
    let credentials = world.path("s3");
    fs::write(
        &credentials,
        format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"),
    )
    .unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    let config = world.path("stratavore.yaml");
    let before = fs::read_to_string(&config).unwrap_or_default();
    let own = format!(
        "vault:\n  url: s3://{BUCKET}/team\n  s3:\n    endpoint: {}\n    region: {REGION}\n    credentials_file: {}\n",
        server.url(),
        credentials.display()
    );
    fs::write(&config, before + &own).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    world.project("demo");
    world
}

fn given_back(world: &World, session: &str) -> String {
    let out = world.path(&format!("out-{session}"));
    world.run(["sessions", "export", session, &out.display().to_string()]).ok();
    let mut files = fs::read_dir(out.join("transcripts")).unwrap();
    fs::read_to_string(files.next().unwrap().unwrap().path()).unwrap()
}

#[test]
fn conversations_are_kept_in_a_bucket_and_come_back() {
    let server = S3::start();
    let world = in_bucket(&server);
    let inside = transcript(ONE, &world.work(), "flaky heartbeat");
    put(&world, ONE, &inside);
    world.run(["import"]).ok();
    let keys = server.keys();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("team/node_")), "{keys:?}");
    assert_eq!(given_back(&world, ONE), inside);
    assert_eq!(server.refused(), [""; 0]);

    // What the server refuses is told, and taken in once it does not.
    let other = transcript(TWO, Path::new("/somewhere/else"), "crooked picture");
    put(&world, TWO, &other);
    server.fail("PUT", Fault::Status(403, "AccessDenied"));
    let told = world.run(["import"]).everything();
    assert!(told.contains("it answers 403 AccessDenied"), "{told}");
    let status = world.run(["status"]).everything();
    assert!(status.contains("the vault:") && status.contains("403 AccessDenied"), "{status}");
    world.run(["import"]).ok();
    assert_eq!(given_back(&world, TWO), other);
    let status = world.run(["status"]).everything();
    assert!(!status.contains("the vault:"), "{status}");
}
