"""Flags: that the help is complete, and that what is typed is what is run."""

import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
from absl import flags as absl_flags

from perceptual_jax.cli import flags
from perceptual_jax.objective import GATYS, JOHNSON
from perceptual_jax.synthesis import Optimizer

GROUPS = ["Pictures", "Objective", "Optimisation", "Run"]


def defined() -> flags.Flags:
    found = flags.Flags()
    flags.pictures(found)
    flags.objective(found, GATYS)
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
        expected = parsed().flag_values_dict()
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
            ("--learning_rate=inf", "--learning_rate=inf: it must be a finite number"),
            ("--style_weight=nan", "--style_weight=nan: it must be a finite number"),
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


class TestLists:
    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("a, b.png", " lead.png", "c,d,e.png", "t:2.png", "b.png"):
            Path(name).touch()

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("", []),
            ("wave", ["wave"]),
            ("wave,the_kiss", ["wave", "the_kiss"]),
            ("wave, the_kiss", ["wave", "the_kiss"]),
            ("wave:0.7,the_kiss:0.3", ["wave:0.7", "the_kiss:0.3"]),
            ('"x, y",wave', ["x, y", "wave"]),
            # A file that exists wins.
            ("a, b.png", ["a, b.png"]),
            ("a, b.png,wave", ["a, b.png", "wave"]),
            ("wave,a, b.png", ["wave", "a, b.png"]),
            ("wave, a, b.png:0.5", ["wave", "a, b.png:0.5"]),
            ("wave,a, b.png:0.5, b.png", ["wave", "a, b.png:0.5", "b.png"]),
            ("c,d,e.png,a, b.png", ["c,d,e.png", "a, b.png"]),
            ("c,d", ["c", "d"]),
            (" lead.png", [" lead.png"]),
            (" wave", ["wave"]),
            ("t:2.png,wave", ["t:2.png", "wave"]),
            (",".join(["wave"] * 2000), ["wave"] * 2000),
        ],
    )
    def test_of_files(self, text: str, names: list[str]) -> None:
        assert parsed(f"--style={text}").style == names

    def test_of_paintings_with_weights(self) -> None:
        names = ["a, b.png:0.5", "t:2.png", "t:2.png:3", "wave:2"]
        assert flags.weighted_names(names) == [
            ("a, b.png", 0.5),
            ("t:2.png", 1.0),
            ("t:2.png", 3.0),
            ("wave", 2.0),
        ]


class TestMeaning:
    def test_without_flags_the_objective_is_the_papers(self) -> None:
        assert flags.filled(GATYS, parsed()) == GATYS

    def test_without_flags_the_optimizer_is_the_default(self) -> None:
        assert flags.filled(Optimizer(), parsed()) == Optimizer()

    def test_the_objective_is_what_was_asked_for(self) -> None:
        found = flags.filled(
            GATYS,
            parsed(
                "--content_layers=relu2_2",
                "--style_layers=conv1_1,conv2_1",
                "--pooling=max",
                "--content_weight=2",
                "--style_weight=3",
                "--tv_weight=4",
                "--range_weight=5",
            ),
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
        found = parsed("--steps=3").flag_values_dict()
        assert found["steps"] == 3
        assert found["content_layers"] == ["conv4_2"]
        assert found["workdir"] is None
        assert not {"flagfile", "undefok"} & set(found)


def setting(default: Any, help: str = "What it is for.", **metadata: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A field of every type that a flag can have."""

    title: str = setting("wave", "A title.")
    place: str | None = setting(None)
    count: int = setting(3, least=1)
    limit: int | None = setting(None)
    rate: float = setting(0.5)
    whole: float = setting(2)
    scale: float | None = setting(None, least=1e-9)
    smooth: bool = setting(True)
    layers: tuple[str, ...] = setting(("a", "b"))
    others: tuple[str, ...] | None = setting(None)
    mode: str = setting("fast", choices=("fast", "slow"))
    kind: str | None = setting(None, choices=("x", "y"))
    private: int = 7


class TestFields:
    def parsed(self, *arguments: str, config: Config | None = None, names: Any = ()) -> Any:
        found = flags.Flags()
        found.fields(config or Config(), *names)
        assert found.values(["run.py", *arguments]) == ["run.py"]
        return found.values

    def test_are_flags_where_they_have_help(self) -> None:
        assert self.parsed().flag_values_dict() == {
            "title": "wave",
            "place": None,
            "count": 3,
            "limit": None,
            "rate": 0.5,
            "whole": 2.0,
            "scale": None,
            "smooth": True,
            "layers": ["a", "b"],
            "others": None,
            "mode": "fast",
            "kind": None,
        }

    def test_have_the_values_of_the_instance_as_defaults(self) -> None:
        config = Config(title="rocket", scale=2.0, layers=(), mode="slow", smooth=False)
        values = self.parsed(config=config)
        assert (values.title, values.scale, values.layers) == ("rocket", 2.0, [])
        assert (values.mode, values.smooth) == ("slow", False)

    def test_may_be_some_of_them_in_another_order(self) -> None:
        found = flags.Flags()
        found.fields(Config(), "rate", "title")
        assert list(found.values.flag_values_dict()) == ["rate", "title"]
        assert [line for line in found.help().splitlines() if "--" in line] == [
            "  --rate=0.5",
            "  --title=wave",
        ]

    @pytest.mark.parametrize("name", ["nothing", "private"])
    def test_that_are_no_settings_are_a_mistake_of_ours(self, name: str) -> None:
        with pytest.raises(KeyError, match=name):
            flags.Flags().fields(Config(), name)

    def test_of_a_type_without_a_flag_are_a_mistake_of_ours(self) -> None:
        @dataclasses.dataclass
        class Odd:
            sizes: tuple[int, ...] = setting((1,))

        with pytest.raises(KeyError, match="int"):
            flags.Flags().fields(Odd())

    @pytest.mark.parametrize(
        ("argument", "field", "value"),
        [
            ("--title=sea", "title", "sea"),
            ("--place=here", "place", "here"),
            ("--count=1", "count", 1),
            ("--limit=0", "limit", 0),
            ("--rate=0", "rate", 0.0),
            ("--whole=2.5", "whole", 2.5),
            ("--scale=1e-3", "scale", 1e-3),
            ("--nosmooth", "smooth", False),
            ("--smooth=false", "smooth", False),
            ("--layers=c", "layers", ("c",)),
            ("--layers=", "layers", ()),
            ("--others=c,d", "others", ("c", "d")),
            ("--mode=slow", "mode", "slow"),
            ("--kind=y", "kind", "y"),
        ],
    )
    def test_are_filled_by_flags(self, argument: str, field: str, value: Any) -> None:
        filled = flags.filled(Config(), self.parsed(argument))
        assert filled == dataclasses.replace(Config(), **{field: value})
        assert type(getattr(filled, field)) is type(value)

    @pytest.mark.parametrize(
        "argument",
        [
            "--count=0",
            "--limit=-1",
            "--rate=-0.1",
            "--scale=0",
            "--mode=other",
            "--kind=",
            "--count=2.5",
        ],
    )
    def test_are_limited(self, argument: str) -> None:
        with pytest.raises(absl_flags.Error, match=argument.split("=")[0].removeprefix("--")):
            self.parsed(argument)

    def test_without_flags_stay_as_they_are(self) -> None:
        values = self.parsed("--rate=3", names=["rate"])
        assert flags.filled(Config(count=9), values) == Config(count=9, rate=3.0)

    def test_may_be_changed_in_the_program(self) -> None:
        values = self.parsed("--rate=3", "--count=5")
        filled = flags.filled(Config(), values, count=6, private=8)
        assert filled == Config(rate=3.0, count=6, private=8)

    def test_are_the_record_of_a_run(self) -> None:
        values = self.parsed("--layers=c,d", "--rate=3")
        assert flags.settings(flags.filled(Config(), values)) == values.flag_values_dict()


@pytest.mark.parametrize("preset", [GATYS, JOHNSON])
def test_the_flags_of_an_objective_are_its_settings(preset: Any) -> None:
    found = flags.Flags()
    flags.objective(found, preset)
    found.values(["run.py"])
    assert flags.filled(preset, found.values) == preset
    assert found.values.flag_values_dict() == {"vgg": "vgg16", **flags.settings(preset)}


class TestIntegers:
    def parsed(self, *arguments: str) -> Any:
        found = flags.Flags()
        found.integers("sizes", [384], "Of strokes.", least=32)
        found.values(["run.py", *arguments])
        return found

    def test_are_one_or_several(self) -> None:
        assert self.parsed().values.sizes == [384]
        assert self.parsed("--sizes=256").values.sizes == [256]
        assert self.parsed("--sizes=256,512, 1024").values.sizes == [256, 512, 1024]
        assert "--sizes=384" in self.parsed().help()

    @pytest.mark.parametrize("text", ["", "a", "31", "256,256", "512,256", "256,", "256.0"])
    def test_ascend_from_the_least_on(self, text: str) -> None:
        with pytest.raises(absl_flags.Error, match="integers from 32 on, ascending, with commas"):
            self.parsed(f"--sizes={text}")


def test_options_of_a_definition_are_keyword_only() -> None:
    """`integer("steps", 1, "...", 5)` would not say what 5 is."""
    for method in (flags.Flags.integer, flags.Flags.float):
        assert inspect.signature(method).parameters["least"].kind is inspect.Parameter.KEYWORD_ONLY
