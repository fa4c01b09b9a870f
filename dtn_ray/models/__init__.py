"""The networks f, g and D. Only torch: no files, no Ray.

options                     how networks may be built
workers                     what depends on the batch of all workers
layers                      layers that they share
perceptual                  the interface of f, and of a judge
digits, faces               the networks of Secs. 5.1 and 5.2
srcnn                       the network that enlarges
imported                    any face network in ONNX, as f, by way of
onnx_graph, onnx_reader     its graph in a standard form, and as a torch module
onnx_simplify               the same, made fast
allowance                   a limit on the memory that it may take meanwhile
"""
