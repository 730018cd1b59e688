"""Image transformation networks, and how they are applied to pictures of any size."""

from perceptual_jax.models.networks import Decoder as Decoder
from perceptual_jax.models.networks import StyleNetwork as StyleNetwork
from perceptual_jax.models.networks import SuperResolutionNetwork as SuperResolutionNetwork
from perceptual_jax.models.networks import UniversalNetwork as UniversalNetwork
from perceptual_jax.models.networks import paper_style_network as paper_style_network
from perceptual_jax.models.networks import (
    paper_super_resolution_network as paper_super_resolution_network,
)
from perceptual_jax.models.patches import repaint as repaint
from perceptual_jax.models.patches import repaint_rows as repaint_rows
from perceptual_jax.models.stylization import blend_regions as blend_regions
from perceptual_jax.models.stylization import blend_with_photo as blend_with_photo
from perceptual_jax.models.stylization import stylize as stylize
from perceptual_jax.models.stylization import stylize_regions as stylize_regions
from perceptual_jax.models.stylization import stylize_tiles as stylize_tiles
from perceptual_jax.models.super_resolution import enlarge as enlarge
from perceptual_jax.models.super_resolution import enlarge_tiles as enlarge_tiles
from perceptual_jax.models.super_resolution import match_input as match_input
from perceptual_jax.models.tiling import assemble as assemble
from perceptual_jax.models.universal import transfer_style as transfer_style
from perceptual_jax.models.variation import vary as vary
