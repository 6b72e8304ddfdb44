//! A profile: the sizes at which a study runs.

/// A profile.
pub struct Profile;
