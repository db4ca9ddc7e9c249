"""RWKV-4 to 7 on any GPU, in WGSL through ``wgpu`` (wgpu-native: Vulkan, Metal, Direct3D 12).

``device`` is the only module that uses wgpu-py, ``shaders`` has the kernels, ``weights`` packs and uploads the
tensors. ``loader`` reads a file into the plan that ``model`` runs, ``backend`` implements the contract. Importing this
package imports nothing heavy.
"""
