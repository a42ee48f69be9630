"""A real Kubernetes for everyone who works on this."""
