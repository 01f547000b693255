"""Success rates on held-out tasks, with intervals, and external test suites."""
