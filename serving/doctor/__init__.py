"""What this machine can run, what it lacks, and whether it serves. Needs no torch and no onnx."""
