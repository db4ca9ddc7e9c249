"""The pages of presets: the list, a new preset, all parameters with the strategy builder, a comparison of strategies.

routes    routes, and the handling of posted forms
views     the content of each page
form      parameters as controls, and parsing and saving the posted form
builder   the strategy builder: kinds, their options, the strategy, whether it fits
"""
