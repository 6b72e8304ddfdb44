//! Pictures: decoding, resizing, folders and archives.
