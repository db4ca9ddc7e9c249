"""The presets pages.

pages     the list, a new preset, one with all its fields, a comparison of strategies; their routes
form      parameters as controls, and parsing and saving the posted form
builder   the strategy builder: kinds, their options, the strategy, whether it fits
"""
