"""The modes of the command line, one file for each `--mode`.

A file here is a mode. Its docstring is the help text (the first line stands in the list of modes),
`define_flags(define)` defines its flags on a `perceptual_jax.cli.flags.Flags`, and `main(values)`
does the work with their values and returns the exit code, or None for 0. Nothing else names it.
"""
