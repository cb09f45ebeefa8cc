"""What stands on the disk: files that are complete or not there, manifests, run folders."""
