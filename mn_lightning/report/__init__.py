"""``mn-lightning inspect``: a page of pictures and numbers about the layers of a checkpoint."""
