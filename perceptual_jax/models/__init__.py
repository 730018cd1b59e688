"""Image transformation networks, and how they are applied to pictures of any size."""

from perceptual_jax.models.stylization import stylize
from perceptual_jax.models.super_resolution import enlarge

__all__ = ["enlarge", "stylize"]
