"""The command line's modes: one file per `--mode`, flags in, files out."""
