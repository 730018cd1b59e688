"""The flag that the modes of super-resolution share."""

from absl import flags as absl_flags

from perceptual_jax.cli.flags import Flags
from perceptual_jax.models import networks


def define_factor(flags: Flags) -> None:
    flags.integer("factor", 4, "By which each side becomes larger: 4 or 8.", least=4)
    absl_flags.register_validator(
        "factor",
        lambda factor: factor in networks.FACTORS,
        "must be 4 or 8",
        flag_values=flags.values,
    )
