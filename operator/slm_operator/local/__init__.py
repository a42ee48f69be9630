"""The local backend: the same reconcile over SQLite and plain processes."""
