"""One model file made another, a block of a tensor at a time: start at :func:`.conversion.convert`.

Whatever the size of the model, memory stays at a few hundred MB. A result appears under its name only when it is whole
and has been read back; a new target is a row of :data:`.plan.CONVERSIONS`. Nothing here imports torch before a
conversion runs: the web process asks :func:`.conversion.plan_for` how much room one needs.
"""
