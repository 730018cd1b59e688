"""Trained networks as programs for elsewhere."""
