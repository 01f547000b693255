"""Episodes in an OpenEnv server: its tasks, tools, steps and rewards, over its own protocol."""
