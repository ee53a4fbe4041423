//! What runs on every member.
