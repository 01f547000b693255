"""TRUSTEE: one frozen model writes the tasks, plays user and tools, and judges."""
