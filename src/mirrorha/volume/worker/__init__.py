"""The process that serves one mounted volume, and its handle in the application's process."""
