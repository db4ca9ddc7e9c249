"""Shared code of all pages: the request's context, toasts and choices."""
