"""Neural style transfer and perceptual losses as pure JAX functions."""

__version__ = "0.1.0"
