"""A bundle: a folder for each device with all that it needs to run its part without PyTorch.

    bundle/
      manifest.json        the plan, versions, and the sha256 of every file below
      edge0/part.json      what the device does, step by step
      edge0/segment-0.onnx models, one op to one node
      edge0/weights.bin    their weights, raw little-endian float32

`format` defines the documents, `reader` and `writer` read and write the folder, `engine` runs it. A program is cut
into `segments`; `lowering` makes an ONNX model of each, and `segment_check` compares it with PyTorch. A worker
derives its `schedule` from its part. Reader, schedule and engine import neither torch nor onnx.
"""
