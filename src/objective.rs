//! The objective: every term of Eqs. 3-8.
