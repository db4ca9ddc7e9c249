"""Models fetched from the hubs they are published on: the list of them, the hubs, the transfer, the queue."""
