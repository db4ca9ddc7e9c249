"""What every page area uses: the request's context, toasts and choices."""
