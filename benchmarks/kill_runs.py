"""Trainings killed at random moments and started again: do they end with the same bits?

Every training is killed once to `--most` times with SIGKILL, which no program can handle, each time
after a random part of the time that one takes which nothing disturbs, and is then left alone until
it is done. Its network has to be the same file, byte for byte.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

# As small as it gets, and long enough for most kills to come while it trains and saves.
TRAINING = (
    *("--mode=train_transform", "--style=wave", "--style_size=32", "--noplot", "--store=float32"),
    *("--content_layers=relu1_2", "--style_layers=relu1_1", "--width=2", "--residual_blocks=0"),
    *("--image_size=32", "--batch_size=2", "--checkpoint_every=7", "--preview_every=100"),
)


class Training:
    """A training in a folder of its own."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.command = [
            *(sys.executable, str(REPOSITORY / "run.py"), *TRAINING),
            *(f"--steps={steps}", f"--workdir={folder}"),
        ]

    def start(self) -> subprocess.Popen[str]:
        # What is compiled is kept, so that a run takes as long as the one before.
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "cache")}
        return subprocess.Popen(
            self.command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill_after(self, seconds: float) -> bool:
        """Whether it was still running then."""
        process = self.start()
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return True
        return False

    def finish(self) -> str:
        """Leaves it alone until it is done, and gives the digest of its network."""
        process = self.start()
        said, _ = process.communicate()
        if process.returncode or "Traceback" in said:
            sys.exit(f"exit code {process.returncode}: {said}")
        return hashlib.sha256((self.folder / "network.safetensors").read_bytes()).hexdigest()

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        steps = [int(path.name) for path in self.folder.glob("checkpoints/[0-9]*[0-9]")]
        return max(steps, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="in all trainings together")
    parser.add_argument("--most", type=int, default=4, help="kills of one training")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill_runs-") as temporary:
        Training(Path(temporary, "warm"), options.steps).finish()
        began = time.monotonic()
        expected = Training(Path(temporary, "whole"), options.steps).finish()
        duration = time.monotonic() - began
        print(f"An undisturbed training of {options.steps} steps takes {duration:.1f} s.\n")
        print("| training | killed after seconds (with a checkpoint of step) | the same network |")
        print("|---|---|---|")
        kills = trainings = different = 0
        while kills < options.kills:
            trainings += 1
            training = Training(Path(temporary, str(trainings)), options.steps)
            places = []
            for _ in range(min(moments.randint(1, options.most), options.kills - kills)):
                seconds = moments.uniform(0.0, duration)
                if not training.kill_after(seconds):
                    duration = 0.9 * seconds  # Other programs have ended since it was measured.
                    break
                kills += 1
                places.append(f"{seconds:.1f} ({training.newest()})")
            same = training.finish() == expected
            different += not same
            print(f"| {trainings} | {', '.join(places)} | {same} |", flush=True)
        print(f"\n{kills} kills, {trainings} trainings, {different} with another network")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
