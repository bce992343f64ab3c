//! The stand-in for providers of models, with the real assistants.

mod headless;
