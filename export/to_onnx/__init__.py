"""The decoder for ONNX Runtime: a graph of standard operators, and one over the operators of `kernels/`.

Owns everything that knows ONNX: what the vocabulary means there (`ops`, `kernels`), how protobufs are spelled
(`builder`) and how weights lie in the data file that both graphs share (`weights`).
"""
