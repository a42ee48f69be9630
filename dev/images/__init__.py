"""The product's container images: built with a real Docker engine, kept as archives outside the work tree."""
