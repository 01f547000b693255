"""Servers of the Model Context Protocol: where one is, a session with it, its tools.

The `mcp` package speaks the protocol. What is here keeps a server within limits: time, bytes, and
a process that is gone when the session is.
"""
