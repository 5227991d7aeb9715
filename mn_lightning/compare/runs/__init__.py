"""The runs of a study: what each is, how it is trained, and where it executes."""
