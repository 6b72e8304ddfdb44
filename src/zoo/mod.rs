//! The procedural image sources and the training of the mini networks.
