"""Where stages run: as local processes (local), later as Kubernetes Jobs."""
