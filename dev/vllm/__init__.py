"""A real vLLM that computes on CPUs, from packages of the index alone: for tests, outside the work tree."""
