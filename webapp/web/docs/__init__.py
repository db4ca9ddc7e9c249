"""The page at /docs: how programs speak to this Roost, made of the same table as the OpenAPI document."""
