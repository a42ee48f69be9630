"""slm-operator: three manifests from model weights to a measured, served small language model."""
