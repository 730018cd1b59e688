"""Weights from files and from elsewhere."""
