//! Metrics, one file each; a name is a whole protocol.
