"""tau2-bench: a simulated customer, tools that keep a state, and what must be true at the end."""
