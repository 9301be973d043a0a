"""The configuration: what it may hold (schema), what a stage sees of it (slices), how it is read and shown."""
