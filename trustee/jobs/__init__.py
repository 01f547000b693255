"""One file per job of a command: the only place where concrete parts meet."""
