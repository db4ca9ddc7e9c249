"""The pages of presets: the list, a new one, all parameters of one with the strategy builder, strategies compared.

routes         addresses and what is posted to them
list_view      presets as rows, templates to begin with
edit_view      one preset with all its fields
fields         a parameter as a control, and the posted form read back
builder_view   the strategy builder: kinds, precision, layers, the string, does it fit
files_view     models, states and tokenizers to choose from
standing       what of a preset is in use now
compare_view   the manual's tables beside what was measured here
contexts       the dataclasses the templates take
"""
