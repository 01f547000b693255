"""What stops a run that would learn from nothing: judge, adapter effect, call parsing, alarms."""
