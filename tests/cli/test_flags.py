"""Flags: that the help is complete, and that what is typed is what is run."""

import inspect
import itertools
from typing import Any

import pytest
from absl import flags as absl_flags

from perceptual_jax.cli import flags
from perceptual_jax.objective import GATYS
from perceptual_jax.synthesis import Optimizer

GROUPS = ["Pictures", "Objective", "Optimisation", "Run"]


def defined() -> flags.Flags:
    found = flags.Flags()
    flags.pictures(found)
    flags.objective(found)
    flags.optimization(found, Optimizer(), steps=7, steps_text="Iterations.")
    flags.run_folder(found)
    return found


def parsed(*arguments: str) -> Any:
    found = defined()
    rest = found.values(["run.py", *arguments])
    assert rest == ["run.py"]
    return found.values


class TestHelp:
    def test_every_flag_is_there_with_its_default(self) -> None:
        text = defined().help()
        shown = dict(
            line.strip().removeprefix("--").split("=", maxsplit=1)
            for line in text.splitlines()
            if line.startswith("  --")
        )
        expected = flags.as_dict(parsed())
        assert set(shown) == set(expected)
        for name, value in expected.items():
            match value:
                case None:
                    assert shown[name] == "none"
                case bool():
                    assert shown[name] == str(value).lower()
                case list():
                    assert shown[name] == ",".join(value)
                case str():
                    assert shown[name] == value
                case _:
                    assert float(shown[name]) == value

    def test_groups_are_in_the_order_of_their_definition(self) -> None:
        titles = [x[:-1] for x in defined().help().splitlines() if x and not x.startswith(" ")]
        assert titles == GROUPS

    def test_each_says_what_it_is_for(self) -> None:
        lines = defined().help().splitlines()
        for name, text in itertools.pairwise(lines):
            if name.startswith("  --"):
                assert len(text.strip()) > 10, name

    def test_fits_a_terminal(self) -> None:
        assert max(map(len, defined().help().splitlines())) <= 100

    def test_only_ours(self) -> None:
        """absl's global flags, and those of whoever else was imported, stay out."""
        assert "logtostderr" in absl_flags.FLAGS or "logtostderr" not in defined().help()
        assert "flagfile" not in defined().help()


class TestParsing:
    def test_of_every_kind(self) -> None:
        values = parsed(
            "--content=a.jpg", "--style=wave:0.7,b,c", "--image_size=640", "--style_weight=2.5",
            "--pooling=max", "--line_search", "--nocheck_memory",
        )  # fmt: skip
        assert values.content == "a.jpg"
        assert values.style == ["wave:0.7", "b", "c"]
        assert (values.image_size, values.style_weight) == (640, 2.5)
        assert (values.pooling, values.line_search, values.check_memory) == ("max", True, False)

    @pytest.mark.parametrize(
        ("argument", "told"),
        [
            ("--image_size=8", "image_size"),
            ("--image_size=large", "image_size"),
            ("--steps=0", "steps"),
            ("--style_weight=-1", "style_weight"),
            ("--learning_rate=0", "learning_rate"),
            ("--pooling=mean", "max, avg|max|avg"),
            ("--contents=a.jpg", "content"),
        ],
    )
    def test_a_mistake_names_the_flag(self, argument: str, told: str) -> None:
        with pytest.raises(absl_flags.Error, match=told):
            parsed(argument)

    def test_each_set_of_flags_is_its_own(self) -> None:
        assert parsed("--steps=3").steps == 3
        assert parsed().steps == 7

    def test_they_are_not_absls_global_ones(self) -> None:
        defined()
        assert "style_weight" not in absl_flags.FLAGS


class TestMeaning:
    def test_without_flags_the_objective_is_the_papers(self) -> None:
        assert flags.objective_of(parsed()) == GATYS

    def test_without_flags_the_optimizer_is_the_default(self) -> None:
        assert flags.filled(Optimizer(), parsed()) == Optimizer()

    def test_the_objective_is_what_was_asked_for(self) -> None:
        found = flags.objective_of(
            parsed(
                "--content_layers=relu2_2",
                "--style_layers=conv1_1,conv2_1",
                "--pooling=max",
                "--content_weight=2",
                "--style_weight=3",
                "--tv_weight=4",
                "--range_weight=5",
            )
        )
        assert found.formulation == "gatys"
        assert found.pooling == "max"
        assert found.term_weights() == {
            "content/relu2_2": 2.0,
            "style/conv1_1": 1.5,
            "style/conv2_1": 1.5,
            "total_variation": 4.0,
            "range": 5.0,
        }

    def test_the_optimizer_is_what_was_asked_for(self) -> None:
        values = parsed("--optimizer=adam", "--learning_rate=0.5")
        assert flags.filled(Optimizer(), values) == Optimizer(optimizer="adam", learning_rate=0.5)
        assert flags.filled(Optimizer(), parsed("--line_search")).line_search

    def test_what_was_asked_is_every_flag_with_its_value(self) -> None:
        found = flags.as_dict(parsed("--steps=3"))
        assert found["steps"] == 3
        assert found["content_layers"] == ["conv4_2"]
        assert found["workdir"] is None
        assert not {"flagfile", "undefok"} & set(found)


def test_options_of_a_definition_are_keyword_only() -> None:
    """`integer("steps", 1, "...", 5)` would not say what 5 is."""
    for method in (flags.Flags.integer, flags.Flags.float):
        assert inspect.signature(method).parameters["least"].kind is inspect.Parameter.KEYWORD_ONLY
