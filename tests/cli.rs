//! The built `etude`, run as a user runs it.
