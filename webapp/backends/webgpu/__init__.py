"""RWKV-4 to 7 on any graphics card, in WGSL through ``wgpu`` (wgpu-native: Vulkan, Metal, Direct3D 12).

``device`` is all that touches wgpu-py, ``shaders`` the kernels, ``packing`` how weights are kept, ``loader`` reads a
file into the plan that ``model`` runs, ``backend`` is the contract's view of it all. Nothing heavy is imported with
this room.
"""
