"""Bundles as ONNX: what each op becomes, and the engine that runs it without PyTorch."""
