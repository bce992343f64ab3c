//! Which programs may work on which schema.
//!
//! Programs of two versions share a database while a team is upgraded. The newer one brings the
//! schema up to date when it starts; the older one goes on with it, and may be started again. So a
//! schema says itself which programs may work on it, in `schema_compatibility`: what only adds
//! (tables, indexes, columns with a default) leaves that alone, and what takes away raises it, a
//! version after the last program that used it.
//!
//! Invariant: a program works on a schema that is newer than its own only if the schema says that it
//! may, and all migrations that the program knows are applied as it knows them.

use sqlx::migrate::{MigrateError, Migrator};

use crate::StoreError;
use crate::error::doing;

pub(crate) const APPLIED: &str =
    "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version";

pub(crate) const HAS_MARK_POSTGRES: &str = "SELECT to_regclass('schema_compatibility') IS NOT NULL";

pub(crate) const HAS_MARK_SQLITE: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'schema_compatibility')";

pub(crate) const WORKS_FROM: &str =
    "SELECT works_from FROM schema_compatibility WHERE name = 'schema'";

statements! { APPLIED, HAS_MARK_POSTGRES, HAS_MARK_SQLITE, WORKS_FROM }

/// Makes a program of a debug build one that knows the migrations up to this number only: a build of
/// before, for the tests of what it does beside a later one.
#[cfg(debug_assertions)]
const OTHER_SCHEMA: &str = "STRATAVORE_TEST_SCHEMA";

/// A migration that was applied: its number, the digest of its text, and whether it came to its end.
pub(crate) type Applied = (i64, Vec<u8>, bool);

/// What is known of a schema by what was applied to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has all that this program knows, and nothing else.
    Ours,
    /// Something is to be applied, or it is for the migrator to say what is wrong.
    Behind,
    /// It has all that this program knows, and more, up to this number.
    Newer(i64),
}

/// The migrations that this program knows.
pub(crate) fn known(all: &Migrator) -> Migrator {
    #[cfg(debug_assertions)]
    if let Ok(newest) = std::env::var(OTHER_SCHEMA)
        && let Ok(newest) = newest.parse::<i64>()
    {
        let known = all.iter().filter(|migration| migration.version <= newest);
        return Migrator::with_migrations(known.cloned().collect());
    }
    Migrator::with_migrations(all.iter().cloned().collect())
}

/// The number of the newest of these migrations.
pub(crate) fn newest(migrations: &Migrator) -> i64 {
    migrations.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Where a schema stands to the migrations that this program knows.
pub(crate) fn standing(known: &Migrator, applied: &[Applied]) -> Result<Standing, StoreError> {
    let ours = || known.iter().map(|m| (m.version, &*m.checksum, true));
    let theirs = || applied.iter().map(|(version, sum, done)| (*version, &**sum, *done));
    let newest = newest(known);
    match applied.last() {
        Some((last, ..)) if *last > newest => {
            // No migrator is asked any more: it would not look at those that it does not know.
            for (version, checksum, done) in ours() {
                match theirs().find(|(applied, ..)| *applied == version) {
                    Some((_, found, true)) if found == checksum && done => {}
                    Some((.., true)) => return Err(made_by_another(version)),
                    Some(_) | None => return Err(missing(version, *last)),
                }
            }
            Ok(Standing::Newer(*last))
        }
        _ if theirs().eq(ours()) => Ok(Standing::Ours),
        _ => Ok(Standing::Behind),
    }
}

/// Refuses a newer schema unless it says that a program may work on it that knows so much.
pub(crate) fn permit(known: i64, found: i64, works_from: Option<i64>) -> Result<i64, StoreError> {
    match works_from {
        Some(needed) if needed <= known => {
            tracing::info!(found, known, "the schema is newer, and made for this program too");
            Ok(found)
        }
        needed => Err(StoreError::SchemaNewer { found, known, needed: needed.unwrap_or(found) }),
    }
}

fn damaged(why: String) -> StoreError {
    StoreError::Corrupt { what: "the schema".into(), why }
}

fn made_by_another(version: i64) -> StoreError {
    damaged(format!("migration {version} that made it is not the one that this program has"))
}

fn missing(version: i64, last: i64) -> StoreError {
    damaged(format!("migration {version} is missing, though {last} was applied"))
}

/// What a failed migration means for whoever starts the daemon.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not ours, and the rest cannot come from migrations of ours"
)]
pub(crate) fn migrating(known: i64) -> impl FnOnce(MigrateError) -> StoreError {
    move |error| match error {
        MigrateError::VersionMissing(found) if found > known => {
            StoreError::SchemaNewer { found, known, needed: found }
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            doing("bringing the schema up to date")(error)
        }
        MigrateError::VersionMissing(version) => {
            damaged(format!("it was made by an unknown migration {version}"))
        }
        MigrateError::VersionMismatch(version) => made_by_another(version),
        error => damaged(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(migrations: &Migrator) -> Vec<Applied> {
        migrations.iter().map(|m| (m.version, m.checksum.to_vec(), true)).collect()
    }

    #[test]
    fn a_schema_is_ours_behind_newer_or_damaged() {
        let known = known(&crate::sqlite::MIGRATIONS);
        let (ours, last) = (applied(&known), newest(&known));
        assert_eq!(standing(&known, &ours).unwrap(), Standing::Ours);
        assert_eq!(standing(&known, &ours[1..]).unwrap(), Standing::Behind);
        assert_eq!(standing(&known, &[]).unwrap(), Standing::Behind);
        let later = (last + 3, vec![7; 48], true);
        let newer: Vec<_> = ours.iter().cloned().chain([later.clone()]).collect();
        assert_eq!(standing(&known, &newer).unwrap(), Standing::Newer(last + 3));
        // Of a newer one nothing that we know may be another, half done, or not there.
        let said = |change: fn(&mut Vec<Applied>)| {
            let mut changed = newer.clone();
            change(&mut changed);
            standing(&known, &changed).unwrap_err().to_string()
        };
        assert!(said(|all| all[1].1 = vec![0; 48]).contains("migration 2 that made it"));
        assert!(said(|all| all[1].2 = false).contains("migration 2 is missing"));
        assert!(said(|all| drop(all.remove(0))).contains("migration 1 is missing"));
    }

    #[test]
    fn a_newer_schema_is_worked_on_if_it_says_so() {
        assert_eq!(permit(7, 9, Some(7)).unwrap(), 9);
        assert_eq!(permit(7, 9, Some(5)).unwrap(), 9);
        for works_from in [Some(8), Some(9), None] {
            let said = permit(7, 9, works_from).unwrap_err().to_string();
            let needed = works_from.unwrap_or(9).to_string();
            assert!(said.contains("version 9") && said.contains(&needed), "{said}");
        }
    }
}
