"""The file API of applications: on a mounted volume or through the stream."""
