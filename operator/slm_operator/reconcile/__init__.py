"""gather → plan → execute → status, on a keyed, level-triggered queue."""
