"""RWKV-Runner's own routes, for scripts and deployments that were written against it."""
