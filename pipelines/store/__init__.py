"""The run directory: tasks, manifests, files, and what earlier runs left."""
