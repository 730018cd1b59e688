"""The options of XLA."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from perceptual_jax.ops import backend


class TestUseMatrixUnits:
    @pytest.fixture(autouse=True)
    def _options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
        monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))

    def test_adds_to_the_options_of_xla(self, tmp_path: Path) -> None:
        assert backend.use_matrix_units(processor(tmp_path, "fma amx_bf16 amx_tile"))
        assert os.environ["XLA_FLAGS"] == (
            "--xla_dump_to=here --xla_cpu_experimental_onednn_custom_call=true"
        )

    def test_needs_a_processor_that_has_them(self, tmp_path: Path) -> None:
        assert not backend.use_matrix_units(processor(tmp_path, "fma avx512_bf16"))
        assert not backend.use_matrix_units(tmp_path / "not Linux")
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"

    @pytest.mark.parametrize("version", [(0, 10, 1), (0, 13, 0), (1, 0, 0)])
    def test_leaves_versions_alone_whose_options_are_not_known(
        self, version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jax, "__version_info__", version)
        assert not backend.use_matrix_units(processor(tmp_path, "amx_bf16"))
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=here"


def processor(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"model name\t: one\nflags\t\t: {flags}\n", encoding="utf-8")
    return file


def test_convolutions_in_bfloat16_use_matrix_units_where_there_are_some() -> None:
    """In a process of its own, since XLA reads its options once."""
    program = """
import jax
import jax.numpy as jnp
from perceptual_jax.ops import backend, conv

used = backend.use_matrix_units()
images, kernel = jnp.ones((1, 32, 32, 64), jnp.bfloat16), jnp.ones((3, 3, 64, 64), jnp.bfloat16)
text = jax.jit(conv.conv2d_reverse).lower(images, kernel).compile().as_text()
print(used, "onednn" in text)
"""
    command = [sys.executable, "-c", program]
    used, found = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert found == used
