"""Image transformation networks, and how they are applied to pictures of any size."""
