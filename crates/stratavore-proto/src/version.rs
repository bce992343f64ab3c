//! Which build this is. The version itself stands in the workspace manifest only.

/// The version of all three programs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("STRATAVORE_COMMIT");
/// The platform it was built for.
pub const TARGET: &str = env!("STRATAVORE_TARGET");

/// When it was built, in seconds after 1970.
pub fn built_at() -> jiff::Timestamp {
    let seconds = env!("STRATAVORE_BUILD_SECONDS").parse().unwrap_or(0);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
