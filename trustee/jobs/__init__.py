"""One module per command's job: the only place where concrete parts are put together."""
