"""Writes bundles: reads a checkpoint, builds the graph with the ring inside, lays it down for a target."""
