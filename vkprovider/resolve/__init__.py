"""References in a pod spec turned into values: environment, files, objects."""
