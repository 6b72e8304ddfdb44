//! Adam and LREQAdam with saveable state.
