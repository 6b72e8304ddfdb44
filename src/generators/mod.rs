//! Generators, one paper one file.
