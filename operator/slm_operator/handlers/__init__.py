"""The operator on a cluster: kopf tells what changed, everything else is decided elsewhere."""
