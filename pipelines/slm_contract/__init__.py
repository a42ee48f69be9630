"""What the operator and a pipeline step say to each other: specs, progress, results and reasons.

This package is the only code both sides import. It holds types and no behaviour that touches a
file, a socket or a clock.
"""
