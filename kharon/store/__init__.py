"""The seam between runtime and state: one protocol (`protocol`), and the store of one process (`local`)."""
