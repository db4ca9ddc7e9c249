"""Models run by the official ``rwkv`` package: RWKV-4 to 7 on CPU, NVIDIA and other torch devices.

The package has two classes, which depend on environment variables, and reads whole .pth files. ``model_loader`` creates
its objects from any file, tensor by tensor, as described by ``layout``; ``strategy`` handles strategy strings,
``requirements`` checks beforehand what can run and its memory. Importing this package imports nothing heavy.
"""
