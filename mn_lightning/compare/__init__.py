"""Studies: the same training with several norms and seeds, and a report on their steps and scores."""
