"""A durable queue of delayed tickets that lives inside a Trio application."""
