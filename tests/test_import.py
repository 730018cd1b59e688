"""What importing costs: the mathematics and VGG's weights need no Flax, Orbax or Pillow."""

import subprocess
import sys
from pathlib import Path

import perceptual_jax

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
import perceptual_jax
perceptual_jax.losses, perceptual_jax.metrics, perceptual_jax.color
perceptual_jax.vgg, perceptual_jax.objective
perceptual_jax.load_vgg(), perceptual_jax.load_lpips()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )


def test_losses_and_vgg_import_no_flax_orbax_or_pillow() -> None:
    packages = set(python(PROGRAM).stdout.split())
    assert "jax" in packages
    assert not packages & {"flax", "orbax", "PIL", "optax", "grain", "absl", "matplotlib"}


def test_the_package_alone_imports_not_even_jax() -> None:
    assert python("import sys, perceptual_jax; print('jax' in sys.modules)").stdout == "False\n"


def test_every_public_name_is_there() -> None:
    for name in perceptual_jax.__all__:
        assert getattr(perceptual_jax, name) is not None
    assert callable(perceptual_jax.io.images.read)
