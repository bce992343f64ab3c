//! What is promised of a directory alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::place::At;

#[tokio::test]
async fn nobody_else_reads_it_and_nothing_half_written_stays() {
    let at = At::directory();
    let kept = at.vault.put(b"bytes".to_vec()).await.unwrap();
    let vault = at.home.path().join("vault");
    assert_eq!(fs::read_dir(vault.join("new")).unwrap().count(), 0);
    for path in [vault.clone(), at.file(kept.digest)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{path:?}");
    }
    let half = vault.join("new/half");
    fs::write(&half, b"x").unwrap();
    at.vault.tidy().await.unwrap();
    assert!(!half.exists());
}
