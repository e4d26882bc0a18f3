"""The version, written here and nowhere else: packaging and CMake read this line."""

__version__ = "0.1.0"
