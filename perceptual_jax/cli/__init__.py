"""The command line: the only room that knows flags, terminals and exit codes."""
