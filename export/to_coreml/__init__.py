"""The decoder as Core ML packages.

Owns everything that knows MIL: what the vocabulary means there (`ops`), how programs and packages are made through
coremltools (`builder`) and what a package says of itself (`description`).
"""
