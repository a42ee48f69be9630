"""What a LoRA adapter may change of a model."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Last part of the modules' names: those of attention, then of the feed-forward layer."""
