"""The chain of stages: the table (catalog), what is needed (graph), why it runs (plan), the loop (controller)."""
