"""sodbatch: small object detection over very many pictures, as distributed batch jobs."""

__version__ = "0.1.0"
