"""Runs bundles: numpy, onnxruntime and tokenizers, never torch."""
