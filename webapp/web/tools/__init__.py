"""The Tools pages: editing definitions in a form next to their JSON, trying them, import and export."""
