//! The fixed statements of each module, by name, so that a test can show every one to the database.

/// Lists the statements of a module. One whose name ends in `_POSTGRES` or `_SQLITE` is for that
/// database only.
macro_rules! statements {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "testing")]
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}
