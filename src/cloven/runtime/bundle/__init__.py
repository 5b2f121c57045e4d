"""A bundle: one folder per device with everything the device needs to run its part without PyTorch.

    bundle/
      manifest.json        the plan, versions, and the sha256 of every file below
      edge0/part.json      the steps of the device, in order
      edge0/segment-0.onnx ONNX models, one node per op where possible
      edge0/weights.bin    their weights, raw little-endian float32

`format` defines the documents, `reader` and `writer` read and write the folder, `engine` runs it. A program is cut
into `segments`; `lowering` builds an ONNX model for each, and `segment_check` compares it with PyTorch. A worker
derives its `schedule` from its part. Reader, schedule and engine import neither torch nor onnx.
"""
