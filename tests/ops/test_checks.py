"""What is taken for images and for settings, and what is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceptual_jax.ops.checks import as_images, check_settings, setting

IMAGE = np.linspace(0.0, 1.0, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)


@pytest.mark.parametrize(
    "images", [IMAGE, jnp.asarray(IMAGE), IMAGE[None, None], IMAGE * 1.9 - 0.45]
)
def test_takes_arrays_that_may_stray_a_little(images: Any) -> None:
    np.testing.assert_allclose(as_images(images), images, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (IMAGE[0], "got shape"),
        (IMAGE[..., :1], "must be"),
        (np.moveaxis(IMAGE, -1, 0), "jnp.moveaxis"),
        ((255 * IMAGE).astype(np.uint8), "/ 255"),
        (255 * IMAGE, "pass images / 255"),
        (2 * IMAGE - 1, "images \\+ 1"),
        (IMAGE * np.float32(np.nan), "values from nan"),
    ],
)
@pytest.mark.parametrize("put", [np.asarray, jnp.asarray])
def test_refuses_the_rest_on_the_host_and_on_the_device(images: Any, remedy: str, put: Any) -> None:
    with pytest.raises(ValueError, match=remedy):
        as_images(put(images))


def test_any_number_of_channels_if_asked() -> None:
    assert as_images(IMAGE[..., :2], channels=None).shape == (4, 5, 2)


def test_inside_jit_layout_and_dtype_are_looked_at_and_constants_wholly() -> None:
    assert jax.jit(as_images)(255 * IMAGE).shape == IMAGE.shape
    with pytest.raises(ValueError, match="floating"):
        jax.jit(as_images)((255 * IMAGE).astype(np.uint8))
    constant = jnp.asarray(255 * IMAGE)
    with pytest.raises(ValueError, match="pass images / 255"):
        jax.jit(lambda: as_images(constant))()


def test_two_numbers_leave_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the batch: a transfer of the array to the host is refused here."""
    batch = jnp.asarray(np.stack([IMAGE] * 2))
    fetched: list[int] = []
    original = type(batch).__array__

    def spy(array: Any, *args: Any, **kwargs: Any) -> Any:
        fetched.append(array.size)
        return original(array, *args, **kwargs)

    monkeypatch.setattr(type(batch), "__array__", spy)
    as_images(batch)
    assert all(size == 1 for size in fetched)


@dataclasses.dataclass
class Settings:
    kind: str = setting("With a help text.", default="a", choices=("a", "b"))
    count: int = setting("", default=1, least=1)
    weight: float | None = setting("", default=None, least=0)
    free: str = "anything"


@pytest.mark.parametrize("given", [{}, {"kind": "b", "count": 9}, {"weight": 0.0, "free": "x"}])
def test_settings_within_their_limits_are_taken(given: dict[str, Any]) -> None:
    check_settings(Settings(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "c"}, r"kind must be one of \('a', 'b'\), got 'c'"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"weight": -0.5}, "weight must be a finite number of at least 0, got -0.5"),
        ({"weight": float("nan")}, "weight must be .* got nan"),
        ({"weight": float("inf")}, "weight must be .* got inf"),
    ],
)
def test_settings_beyond_them_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(Settings(**given))


def test_a_setting_has_a_help_text_only_if_one_is_given() -> None:
    texts = [field.metadata.get("help") for field in dataclasses.fields(Settings)]
    assert texts == ["With a help text.", None, None, None]
