"""The command line: arguments, screen, exit codes."""
