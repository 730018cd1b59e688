"""--mode=reconstruct: the paper's figures."""

import re
from pathlib import Path

import numpy as np
import pytest

from perceptual_jax import synthesis
from perceptual_jax.cli import main
from perceptual_jax.cli.modes import reconstruct
from perceptual_jax.io import images
from tests import reference


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG-16 of a few channels, which compiles fast."""
    monkeypatch.setattr(reconstruct, "load_vgg", lambda name: reference.random_vgg())


class TestFigure1:
    def test_first_row_is_content_from_one_layer_at_a_time(self) -> None:
        cells = reconstruct.figure1("avg").term_weights
        assert [list(cell) for cell in cells[:5]] == [
            [f"content/conv{block}_1"] for block in range(1, 6)
        ]

    def test_second_row_is_style_from_growing_sets_of_equal_total_weight(self) -> None:
        cells = reconstruct.figure1("avg").term_weights[5:]
        for count, cell in enumerate(cells, start=1):
            assert list(cell) == [f"style/conv{block}_1" for block in range(1, count + 1)]
            assert sum(cell.values()) == pytest.approx(reconstruct.STYLE_WEIGHT)


class TestFigure3:
    def test_columns_are_alpha_over_beta_and_rows_sets_of_style_layers(self) -> None:
        figure = reconstruct.figure3("avg")
        assert figure.column_labels == ["1e-5", "1e-4", "1e-3", "1e-2"]
        cells = iter(figure.term_weights)
        for count in range(1, 6):
            for ratio in (1e-5, 1e-4, 1e-3, 1e-2):
                cell = dict(next(cells))
                alpha = cell.pop("content/conv4_2")
                assert len(cell) == count
                assert alpha / sum(cell.values()) == pytest.approx(ratio)


@pytest.mark.parametrize(("figure", "rows", "columns"), [("1", 2, 5), ("3", 5, 4)])
def test_writes_a_labelled_grid(tmp_path: Path, figure: str, rows: int, columns: int) -> None:
    output = tmp_path / "figure.png"
    arguments = ["run.py", "--mode=reconstruct", f"--figure={figure}", "--image_size=32"]
    assert main.main([*arguments, "--steps=2", f"--output={output}"]) == 0
    picture = images.read(output)
    # The example photo, 640x427, is 32x21 in a cell; between the cells it is white.
    assert picture.shape[0] >= rows * 21
    assert picture.shape[1] >= columns * 32
    assert (picture == 1).all(axis=(1, 2)).sum() >= rows + 1
    assert np.std(picture[picture.min(axis=-1) < 1]) > 0.05
    settings = images.read_settings(output)
    assert settings is not None
    assert settings["figure"] == figure


def test_an_objective_that_is_not_finite_leaves_the_last_good_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figure.png"
    arguments = ["run.py", "--mode=reconstruct", "--image_size=32", "--steps=2"]
    assert main.main([*arguments, "--learning_rate=1e30", f"--output={output}"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(r"\nerror: the .* was no longer finite by iteration 1: .*\n$", error)
    assert np.isfinite(images.read(output)).all()


def test_refuses_cells_too_small_for_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figure.png"
    arguments = ["run.py", "--mode=reconstruct", "--image_size=16", f"--output={output}"]
    assert main.main(arguments) == 2
    assert "--image_size" in capsys.readouterr().err
    assert not output.exists()


def test_refuses_a_grid_that_the_format_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five cells in a row, before any is optimised."""
    monkeypatch.setattr(images, "_LARGEST_SIDES", {"WEBP": 5 * 32})
    monkeypatch.setattr(synthesis, "run", lambda *arguments, **options: pytest.fail("it ran"))
    arguments = ["run.py", "--mode=reconstruct", "--image_size=32"]
    assert main.main([*arguments, f"--output={tmp_path / 'figure.webp'}"]) == 2
    assert "WEBP holds 160 pixels a side" in capsys.readouterr().err
