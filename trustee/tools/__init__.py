"""Tool schemas: the packaged repository, importers, checks of arguments, chat messages."""
