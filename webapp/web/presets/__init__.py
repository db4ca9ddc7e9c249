"""The pages of presets: the list, a new one, all parameters of one with the strategy builder, strategies compared.

routes    addresses and what is posted to them
views     what each page shows
form      a parameter as a control, and the posted form read back and saved
builder   the strategy builder: kinds, their options, the strategy, does it fit
"""
