"""Numbers about fitted layers: their mixtures, their gates, and how they change an activation's distribution."""
