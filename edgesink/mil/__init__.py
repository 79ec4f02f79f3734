"""What a saved `.mlpackage` says, read and computed operation by operation.

Refuses the ring, the exporter, and coremltools beyond its protobufs.
"""
