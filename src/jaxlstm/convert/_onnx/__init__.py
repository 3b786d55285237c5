"""Models of ONNX: read as networks, and networks written as models."""
