"""An artefact against the oracle: what `edgesink verify` does. Refuses speed, perplexity and command lines."""
