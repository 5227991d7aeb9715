"""Numbers about fitted layers: their mixtures, gates, and what they make of an activation."""
