"""Scoring without torch: checkpoints read by NumPy, and the whole detector as one graph that an engine runs."""
