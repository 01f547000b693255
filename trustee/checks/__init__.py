"""Checks that stop a run with a broken signal: judge, adapter effect, call parsing, alarms."""
