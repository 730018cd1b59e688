"""The command line of perceptual_jax: `python run.py --mode=MODE [flags]`."""

from perceptual_jax.cli.start import run

if __name__ == "__main__":
    run()
