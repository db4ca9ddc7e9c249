"""Converts one model file to another, one block of a tensor at a time: start at :func:`.conversion.convert`.

Memory stays at a few hundred MB for any model size. A result gets its name only when it is complete and verified. A new
target needs a row in :data:`.plan.CONVERSIONS`. Nothing here imports torch before a conversion runs: the web process
only asks :func:`.conversion.plan_for` for the needed space.
"""
