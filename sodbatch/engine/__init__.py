"""Engines: what runs a pipeline of stages, in this process or on Ray."""
