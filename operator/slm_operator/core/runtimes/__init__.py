"""One module per engine: what it loads, how it is started, when it is healthy."""
