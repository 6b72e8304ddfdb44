//! Studies, cards, profiles.
