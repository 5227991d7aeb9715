"""Studies: the same training with several norms and seeds, and what it says about steps and score."""
