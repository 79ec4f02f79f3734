"""The decoder as Core ML packages.

Owns everything that knows MIL: what the vocabulary means there (`ops`) and how rows reach a state (`buffers`), which
functions a package has (`functions`), how programs and packages are made through coremltools (`builder`) and what a
package says of itself (`description`).
"""
