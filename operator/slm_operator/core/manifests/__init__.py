"""Builders: typed values in, Kubernetes manifests out."""
