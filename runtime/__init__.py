"""Runs bundles: numpy, onnxruntime, tokenizers and jinja2, never torch."""
