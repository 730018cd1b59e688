"""Image transformation networks, and how they are applied to pictures of any size."""

from perceptual_jax.models.networks import (
    StyleNetwork,
    SuperResolutionNetwork,
    paper_style_network,
    paper_super_resolution_network,
)
from perceptual_jax.models.stylization import (
    blend_regions,
    blend_with_photo,
    stylize,
    stylize_regions,
    stylize_tiles,
)
from perceptual_jax.models.super_resolution import enlarge, enlarge_tiles, match_input
from perceptual_jax.models.tiling import assemble

__all__ = [
    "StyleNetwork",
    "SuperResolutionNetwork",
    "assemble",
    "blend_regions",
    "blend_with_photo",
    "enlarge",
    "enlarge_tiles",
    "match_input",
    "paper_style_network",
    "paper_super_resolution_network",
    "stylize",
    "stylize_regions",
    "stylize_tiles",
]
