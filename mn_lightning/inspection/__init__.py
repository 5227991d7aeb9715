"""The ``inspect`` command: a page with pictures and numbers about the swapped layers of a checkpoint."""
