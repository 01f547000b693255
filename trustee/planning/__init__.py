"""Whether a run fits a card and how long it takes, computed from config and shape alone."""
