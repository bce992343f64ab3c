//! The core's rules, by properties: whatever happens in whatever order, the invariants hold.

mod clock;
mod fuzz;
mod given;
mod idle;
mod life;
mod moving;
mod reconcile;
mod usage;
