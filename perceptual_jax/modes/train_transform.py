"""Train a network that stylises any photo in one pass (Johnson et al. 2016).

One network learns one style, or several (--style=wave,the_kiss), on one device or many. Started
again with the same --workdir, a run goes on exactly where it was.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from perceptual_jax import (
    __version__,
    flags,
    networks,
    objective,
    stylization,
    tasks,
    training,
    training_flags,
    training_run,
    vgg,
)
from perceptual_jax.errors import UserError, usage_errors
from perceptual_jax.io import images, network_files, photos, resources, sheets, weights

_THUMBNAIL_SIDE = 96


def define_flags(define: flags.Flags) -> None:
    define.group("Styles")
    define.names(
        "style",
        ["starry_night"],
        "The painting, or several with commas: files, or names from examples/styles.",
    )
    define.integer(
        "style_size",
        384,
        "Long side at which a painting is looked at, in pixels: larger gives larger strokes.",
        least=32,
    )
    flags.objective(define, objective.JOHNSON)
    define.group("Network")
    define.choice(
        "architecture",
        "default",
        ["default", "paper"],
        "paper: batch normalisation, transposed convolutions, tanh, padded once; for one style.",
    )
    define.integer("width", 32, "Channels of the first layer.", least=1)
    define.integer("residual_blocks", 5, "In the middle of the network.", least=0)
    define.text("network", None, "A trained network to begin with; its architecture is kept.")
    define.switch(
        "freeze_trunk",
        False,
        "With --network: add the paintings of --style to it, by training nothing but their own "
        "normalisation parameters.",
    )
    training_flags.define(define)
    training_flags.define_folder(define)


@dataclasses.dataclass(frozen=True)
class _Start:
    """What a run begins with."""

    network: networks.StyleNetwork
    variables: Any
    styles: tuple[str, ...]
    thumbnails: tuple[np.ndarray, ...]
    first_style: int


def main(values: Any) -> int:
    with usage_errors():
        training_flags.join_processes(values)
        aim = dataclasses.replace(flags.objective_of(values, objective.JOHNSON), dtype=values.dtype)
    if not values.style:
        raise UserError("--style is empty: give a painting")
    workdir = values.workdir or f"runs/{'-'.join(Path(name).stem for name in values.style)}"
    output = values.output or f"{workdir}/network.safetensors"
    if Path(output).expanduser().is_dir():
        raise UserError(f"--output={output} is a folder: give the path of a file")
    settings = _settings(values)
    training_run.check_settings(workdir, settings)
    with usage_errors():
        recipe = training_flags.recipe_of(values, settings, styles_only=values.freeze_trunk)
    paintings = [_painting(name, values.style_size) for name in values.style]
    batches = training_flags.batches_of(settings, training_flags.photo_source(values))
    params = weights.load(values.vgg)
    with usage_errors():
        vgg.check_layers(params, aim.layers)
    _check_sizes(values, aim, paintings)
    began = _start(values, paintings, settings["image_size"])
    try:
        result = training_run.run(
            tasks.style_loss(began.network, aim, first_style=began.first_style),
            recipe,
            variables=began.variables,
            batches=batches,
            constants=tasks.style_constants(aim, params, paintings),
            settings=settings,
            options=training_run.Options(
                workdir=workdir,
                checkpoint_every=values.checkpoint_every,
                preview_every=values.preview_every,
                plot=values.plot,
            ),
            preview=functools.partial(_preview, began, settings["image_size"]),
        )
    except training.NonFiniteError as error:
        raise UserError(str(error)) from error
    if jax.process_index() == 0:
        _write(output, began, result, {**settings, "steps": result.step}, values.store)
        print(f"{output}: {', '.join(began.styles)}; {result.step} of {result.steps} steps")
        if result.step < result.steps:
            print(f"Stopped early. The same command with --workdir={workdir} goes on from there.")
    return result.exit_code


def _settings(values: Any) -> dict[str, Any]:
    """Every flag that decides the result, as it will be used."""
    return {
        "style": values.style,
        "style_size": values.style_size,
        **flags.objective_settings(values),
        "architecture": values.architecture,
        "width": values.width,
        "residual_blocks": values.residual_blocks,
        "network": values.network,
        "freeze_trunk": values.freeze_trunk,
        **training_flags.settings_of(values),
    }


def _painting(name: str, long_side: int) -> np.ndarray:
    painting = images.read(resources.picture(name, "styles"))
    return images.resize(painting, images.size_for(painting.shape[:2], long_side))


def _check_sizes(values: Any, aim: objective.Objective, paintings: list[np.ndarray]) -> None:
    """VGG has to have all of its layers for a painting; for a crop of 32 pixels it has."""
    needed = vgg.smallest_side(aim.layers)
    for name, painting in zip(values.style, paintings, strict=True):
        if (side := min(painting.shape[:2])) < needed:
            raise UserError(
                f"the short side of the painting {name} is {side} pixels, and the layers need "
                f"{needed}: raise --style_size"
            )


def _check_crop(network: networks.StyleNetwork, side: int) -> None:
    if side < (least := networks.smallest_side(network)):
        raise UserError(f"the network needs crops of {least} pixels: raise --image_size={side}")


def _start(values: Any, paintings: list[np.ndarray], side: int) -> _Start:
    names = tuple(Path(name).stem for name in values.style)
    if len(set(names)) < len(names):
        raise UserError(f"--style={','.join(values.style)}: two paintings have the same name")
    thumbnails = tuple(_thumbnail(painting) for painting in paintings)
    if values.network:
        return _continued(values, names, thumbnails, side)
    if values.freeze_trunk:
        raise UserError("--freeze_trunk adds styles to a trained network: give it with --network")
    paper = values.architecture == "paper"
    network = networks.paper_style_network() if paper else networks.StyleNetwork()
    network = network.clone(
        styles=len(names),
        width=values.width,
        residual_blocks=values.residual_blocks,
        dtype=values.dtype,
    )
    _check_crop(network, side)
    with usage_errors():
        variables = _initial_variables(network, values.seed)
    return _Start(network, variables, names, thumbnails, first_style=0)


def _initial_variables(network: networks.StyleNetwork, seed: int) -> Any:
    side = max(64, networks.smallest_side(network))
    example = np.zeros((1, side, side, 3), np.float32)
    weights = np.ones(network.styles, np.float32)
    return jax.jit(network.init)(jax.random.key(seed), example, weights)


def _continued(
    values: Any, names: tuple[str, ...], thumbnails: tuple[np.ndarray, ...], side: int
) -> _Start:
    """A trained network, its styles trained on, or new ones added behind them."""
    trained = network_files.load(values.network)
    if not isinstance(trained.network, networks.StyleNetwork):
        raise UserError(f"--network={values.network} is not a network for style transfer")
    network = trained.network.clone(dtype=values.dtype)
    _check_crop(network, side)
    if not values.freeze_trunk:
        if trained.styles != names:
            raise UserError(
                f"--network={values.network} has the styles {','.join(trained.styles)}: give these "
                "with --style to train it on, or --freeze_trunk to add others"
            )
        return _Start(network, trained.variables, names, thumbnails, first_style=0)
    known = set(trained.styles) & set(names)
    if known:
        raise UserError(f"--network={values.network} has the style {', '.join(known)} already")
    if network.normalization != "instance":
        raise UserError("--freeze_trunk needs a network with instance normalisation")
    grown = {
        **trained.variables,
        "params": networks.with_more_styles(trained.variables["params"], len(names)),
    }
    pad = [np.zeros((1, 1, 3), np.uint8)] * (len(trained.styles) - len(trained.thumbnails))
    return _Start(
        network=network.clone(styles=network.styles + len(names)),
        variables=grown,
        styles=(*trained.styles, *names),
        thumbnails=(*trained.thumbnails, *pad, *thumbnails),
        first_style=network.styles,
    )


def _thumbnail(painting: np.ndarray) -> np.ndarray:
    small = images.resize(painting, images.size_for(painting.shape[:2], _THUMBNAIL_SIDE))
    return np.round(np.clip(small, 0.0, 1.0) * 255.0).astype(np.uint8)


def _held_out(side: int) -> list[np.ndarray]:
    """The photos of examples/content, on which nothing is trained."""
    found = []
    for name in resources.example_names("content"):
        photo = images.read(resources.picture(name, "content"))
        found.append(images.resize(photo, images.size_for(photo.shape[:2], max(256, side))))
    return found


def _preview(began: _Start, side: int, variables: Any, path: Path) -> None:
    """Writes the held-out photos, and a row of them in each style."""
    photos = _held_out(side)
    rows: list[list[np.ndarray]] = [photos]
    for one_hot in np.eye(began.network.styles, dtype=np.float32):
        stylised = [
            stylization.stylize_batch(variables, photo[None], one_hot, network=began.network)
            for photo in photos
        ]
        rows.append([np.asarray(batch[0]) for batch in stylised])
    images.write(path, sheets.sheet(rows, row_labels=["photo", *began.styles]))


def _without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Files by their names: a network travels, and where things lay here concerns nobody there."""

    def name(value: Any) -> Any:
        return Path(value).name if isinstance(value, str) else value

    return {
        **settings,
        "style": [name(style) for style in settings["style"]],
        **{key: name(settings[key]) for key in ("data", "network", "vgg")},
    }


def _write(
    output: str,
    began: _Start,
    result: training_run.Result,
    settings: dict[str, Any],
    dtype: str,
) -> None:
    trained = network_files.TrainedNetwork(
        network=began.network,
        variables=result.variables,
        styles=began.styles,
        thumbnails=began.thumbnails,
        settings={"program": f"perceptual_jax {__version__}", **_without_folders(settings)},
    )
    if "://" not in output:
        try:
            with usage_errors():
                network_files.save(Path(output).expanduser(), trained, dtype=dtype)
        except OSError as error:
            raise UserError(
                f"cannot write {output}: {error.strerror or error}; the same command with another "
                "--output writes it from the checkpoint"
            ) from error
        return
    # Only here: it is slow to import, and of use to few.
    from etils import epath

    with tempfile.TemporaryDirectory() as folder, photos.access(output), usage_errors():
        file = Path(folder) / "network.safetensors"
        network_files.save(file, trained, dtype=dtype)
        epath.Path(output).write_bytes(file.read_bytes())
