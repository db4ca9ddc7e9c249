"""The pages of the model library: the files in the folders, one file's details, downloads, and published models."""
