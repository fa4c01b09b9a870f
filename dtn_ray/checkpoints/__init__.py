"""Networks on disk. Does not import Ray.

checkpoint          the format: a manifest and one safetensors file per network
weights             one of these files
optimizer_states    the states of optimisers, to resume a training
onnx_files          networks from ONNX files
run_result          the checkpoint that represents a finished run
"""
