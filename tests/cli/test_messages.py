"""What reaches a terminal of the names of files and styles."""

import logging

import pytest

from perceptual_jax.cli import messages


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("über die Brücke – 海.png", "über die Brücke – 海.png"),
        ("a b\u00a0c\u202f\u200dd.png", "a b\u00a0c\u202f\u200dd.png"),
        ("\x1b[2J\x07.png", r"\x1b[2J\x07.png"),
        ("a\nerror: b\r\t.png", r"a\nerror: b\r\t.png"),
        ("\x7f\x9b2J.png", r"\x7f\x9b2J.png"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        (b"\xff\xfe.png".decode("utf-8", "surrogateescape"), r"\udcff\udcfe.png"),
    ],
)
def test_is_text_alone(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert messages.printable(name) == shown
    messages.say(name)
    assert capsys.readouterr() == (f"{shown}\n", "")
    messages.say(name, aside=True)
    assert capsys.readouterr() == ("", f"{shown}\n")


def test_of_a_log_is_text_alone_but_for_a_traceback() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        raised = type(error), error, error.__traceback__
    record = logging.LogRecord("n", logging.WARNING, "p", 1, "skipped: %s", ("\x1bc",), raised)
    first, *rest = messages.Formatter().format(record).splitlines()
    assert first == r"skipped: \x1bc"
    assert rest[-1] == "ValueError: x"
