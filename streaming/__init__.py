"""Things in motion: the long-running services and the topics between them."""
