"""The ``inspect`` command: what the swapped layers of a checkpoint do, as a page of pictures and numbers."""
