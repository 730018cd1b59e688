"""Signals that are requests to stop, of which nothing is lost."""

import signal

import pytest

from perceptual_jax.cli.interrupts import interruptible

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class TestInterruptible:
    def test_without_a_signal(self) -> None:
        with interruptible() as interrupts:
            assert not interrupts
        assert interrupts.exit_code == 0

    # What a shell shows of a program that a signal ended: 128 and the signal's number, from POSIX.
    @pytest.mark.parametrize(("number", "code"), list(zip(SIGNALS, [130, 143, 129], strict=True)))
    def test_the_first_signal_is_a_request(self, number: signal.Signals, code: int) -> None:
        with interruptible() as interrupts:
            signal.raise_signal(number)
            assert interrupts
            assert interrupts.signal == number
        assert interrupts.exit_code == code

    @pytest.mark.parametrize("second", SIGNALS)
    def test_a_second_one_stops_at_once(self, second: signal.Signals) -> None:
        with interruptible() as interrupts:
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(second)
        assert interrupts.exit_code == 143

    def test_afterwards_signals_do_what_they_did(self) -> None:
        before = [signal.getsignal(number) for number in SIGNALS]
        with interruptible():
            assert [signal.getsignal(number) for number in SIGNALS] != before
        assert [signal.getsignal(number) for number in SIGNALS] == before

    def test_after_an_error_too(self) -> None:
        before = [signal.getsignal(number) for number in SIGNALS]

        def fail() -> None:
            with interruptible():
                raise ArithmeticError

        with pytest.raises(ArithmeticError):
            fail()
        assert [signal.getsignal(number) for number in SIGNALS] == before

    def test_nohup_stays_in_force(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with interruptible() as interrupts:
                signal.raise_signal(signal.SIGHUP)
                assert not interrupts
        finally:
            signal.signal(signal.SIGHUP, before)
