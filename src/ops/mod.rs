//! Tensor operations with hand-written gradients.
