"""The pages of the model library: everything in the folders, one model's details, and the list of published ones.

routes         pages, and what is done to files
upload_routes  the slices of an upload, as JSON
list_view      files as rows: looked into as they are shown, not before
details_view   one file: facts, fit, tensors by block
activity_view  what is going on: a load, imports, uploads that stopped halfway
known_view     the published models, and what each asks of this machine
fit_view       will it fit, in a sentence
kinds          what a file is, in one word
contexts       the dataclasses the templates take
"""
