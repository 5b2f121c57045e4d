"""The ONNX nodes that each op becomes. Needs the package onnx, and no PyTorch."""
