"""Models run by the official ``rwkv`` package: RWKV-4 to 7 on CPU, NVIDIA and other torch devices.

The package has two classes behind switches in the environment and reads whole .pth files. ``model_loader`` makes its
objects from any file, tensor by tensor, as ``layout`` describes them; ``strategy`` has the words, ``requirements`` says
beforehand what can run and what it takes. Nothing heavy is imported with this room.
"""
