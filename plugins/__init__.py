"""The plugin contract and everything built on it."""
