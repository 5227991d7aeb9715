"""The runs of a study: what a run is, how it is trained, and where it executes."""
