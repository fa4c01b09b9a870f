"""Networks on disk. Knows no Ray.

checkpoint          the format: a manifest and a safetensors file per network
weights             one of these files
optimizer_states    what a training needs besides, to go on
onnx_files          networks brought along
run_result          which checkpoint stands for a finished run
"""
