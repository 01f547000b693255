"""Success on held-out tasks with intervals, and suites made by others."""
