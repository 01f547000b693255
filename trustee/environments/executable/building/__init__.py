"""Building tool environments: five stages from a question to tools that run, each one checked."""
