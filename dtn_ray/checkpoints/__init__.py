"""Networks on disk. Knows no Ray.

checkpoint          the format: a manifest and one safetensors file per network
weights             one of these files
optimizer_states    what a training also needs to resume
onnx_files          networks from ONNX files
run_result          the checkpoint that represents a finished run
"""
