"""The page on which one model file becomes another; the work is done by ``services.conversion.conversions``."""
