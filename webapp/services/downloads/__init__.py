"""Downloads of published models: the catalogue, the hubs, the transfer, the queue."""
