"""Programs that steps run: where they come from, how they are started, what their output means."""
